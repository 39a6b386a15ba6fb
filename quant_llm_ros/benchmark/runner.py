"""Runs contenders one after the other, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
import dataclasses
import multiprocessing
import time

from quant_llm_ros.benchmark import llama_cpp
from quant_llm_ros.benchmark.machine import peak_memory_mb, read_bandwidth
from quant_llm_ros.benchmark.ours import MODES, Ours, PLAIN
from quant_llm_ros.benchmark.sample import Result
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.engine.bundle import Bundle, SKILLS
from quant_llm_ros.engine.providers import AUTO
from quant_llm_ros.errors import EngineError

_WARM_UP = 3
_PASS_SIZES = (1, 2, 4, 8, 16, 32)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all contenders of a run share.

    Attributes:
        bundle: Folder of the bundle.
        skills: Skill registry; None means the bundle's own.
        threads: CPU threads.
        drafter: File of what the drafter learned before; None: it knows the registry's examples.
        provider: Where the model runs, one of ``engine.providers.PROVIDERS``.
        allow_fallback: Let the runtime fall back to a slower provider.
        gguf: The same model for llama.cpp, where it is a contender.
    """

    bundle: str
    skills: str | None
    threads: int
    drafter: str | None = None
    provider: str = AUTO
    allow_fallback: bool = False
    gguf: str | None = None


def run(settings: Settings, modes: Sequence[str], sentences: Sequence[str]) -> Iterator[Result]:
    """Measure contenders on the same sentences.

    Args:
        settings: What they share.
        modes: Names of ``ours.MODES`` and of ``peers.PEERS``.
        sentences: Cleaned sentences.

    Yields:
        The result of each contender.

    Raises:
        EngineError: A contender's process died.
    """
    for mode in modes:
        yield _in_own_process(_measure, settings, mode, tuple(sentences))


def _in_own_process(
    work: Callable[[Settings, str, tuple[str, ...]], Result],
    settings: Settings,
    mode: str,
    sentences: tuple[str, ...],
) -> Result:
    # A fresh process, so that its memory and the time it takes to load are its own.
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as pool:
        try:
            return pool.submit(work, settings, mode, sentences).result()
        except BrokenProcessPool as error:
            raise EngineError(
                f"{mode}: its process died; out of memory? Use fewer threads or a smaller bundle"
            ) from error


def _contender(settings: Settings, mode: str) -> Ours | llama_cpp.LlamaCppChat:
    """Load a contender."""
    features, engine = MODES.get(mode, MODES[PLAIN]), None
    if mode not in MODES:
        bundle = Bundle.load(settings.bundle, verify=False)
        context_length = bundle.model.context_length
        assert settings.gguf is not None
        if mode == llama_cpp.USERS:
            registry = SkillRegistry.load(settings.skills or bundle.file(SKILLS))
            return llama_cpp.LlamaCppChat(
                settings.gguf, registry, threads=settings.threads, context_length=context_length
            )
        engine = llama_cpp.LlamaCppEngine(
            settings.gguf, threads=settings.threads, context_length=context_length
        )
    return Ours(
        settings.bundle,
        settings.skills,
        features,
        threads=settings.threads,
        provider=settings.provider,
        allow_fallback=settings.allow_fallback,
        drafter_file=settings.drafter,
        engine=engine,
    )


def _measure(settings: Settings, mode: str, sentences: tuple[str, ...]) -> Result:
    started = time.perf_counter()
    contender = _contender(settings, mode)
    load_ms = (time.perf_counter() - started) * 1e3
    extra: dict[str, float] = {}
    try:
        for sentence in sentences[:_WARM_UP]:
            contender(sentence)
        samples = tuple(contender(sentence) for sentence in sentences)
        # Before the bandwidth is measured, which takes memory of its own.
        peak_mb = peak_memory_mb()
        if isinstance(contender, Ours):
            for size in _PASS_SIZES:
                extra[f"pass_ms_{size}"] = round(contender.pass_ms(size), 3)
            bandwidth = read_bandwidth(settings.threads)
            extra["bandwidth_gb_s"] = round(bandwidth / 1e9, 2)
            extra["floor_ms"] = round(contender.weight_bytes / bandwidth * 1e3, 3)
    finally:
        contender.close()
    return Result(mode, load_ms, peak_mb, samples, extra)
