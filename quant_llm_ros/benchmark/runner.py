"""Runs contenders one after the other, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
import dataclasses
import multiprocessing
import time
from typing import Protocol, TypeVar

from quant_llm_ros.benchmark import genai, llama_cpp
from quant_llm_ros.benchmark.machine import peak_memory_mb, read_bandwidth
from quant_llm_ros.benchmark.ours import MODES, Ours, UNDER_ANOTHER
from quant_llm_ros.benchmark.sample import Result, Sample
from quant_llm_ros.command.shortlist import DEFAULT_SHORTLIST
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.engine.bundle import Bundle, SKILLS
from quant_llm_ros.engine.providers import AUTO
from quant_llm_ros.errors import EngineError

_WARM_UP = ("what can you do", "please bring me the newspaper")
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all contenders of a run share.

    Attributes:
        bundle: Folder of the bundle.
        skills: Skill registry; None means the bundle's own.
        threads: CPU threads.
        provider: Where the model runs, one of ``engine.providers.PROVIDERS``.
        allow_fallback: Let the runtime fall back to a slower provider.
        models: The same model for other runtimes, by ``peers.PEERS``.
        shortlist: For ``growth``: skills that the model is shown of a large registry; 0: all.
    """

    bundle: str
    skills: str | None
    threads: int
    provider: str = AUTO
    allow_fallback: bool = False
    models: Mapping[str, str] = dataclasses.field(default_factory=dict)
    shortlist: int = DEFAULT_SHORTLIST


class Contender(Protocol):
    """Something that decides about sentences.

    Attributes:
        runtime: What runs the model, with its version.
    """

    runtime: str

    def __call__(self, sentence: str) -> Sample:
        """Decide about one cleaned sentence."""

    def costs(self) -> dict[str, float]:
        """Measure what its passes cost."""

    def close(self) -> None:
        """Release the memory."""


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
        yield in_own_process(mode, _measure, settings, mode, tuple(sentences))


def in_own_process(name: str, work: Callable[..., _T], *arguments: object) -> _T:
    """Call a function in a fresh process: its memory and the time it takes to load are its own.

    Args:
        name: What is measured, for messages.
        work: A function of a module.
        arguments: Its arguments.

    Raises:
        EngineError: The process died.
    """
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as pool:
        try:
            return pool.submit(work, *arguments).result()
        except BrokenProcessPool as error:
            raise EngineError(
                f"{name}: its process died; out of memory? Use fewer threads or a smaller bundle"
            ) from error


def contender(settings: Settings, mode: str) -> Contender:
    """Load a contender.

    Raises:
        QuantLlmError: Something is missing or damaged.
    """
    if mode in MODES:
        return _ours(settings, mode)
    bundle = Bundle.load(settings.bundle, verify=False)
    registry = SkillRegistry.load(settings.skills or bundle.file(SKILLS))
    context_length = bundle.model.context_length
    if mode in (genai.USERS, genai.GUIDED):
        return genai.GenaiGuided(
            settings.models["onnxruntime_genai"],
            registry,
            compact=mode == genai.GUIDED,
            examples=bundle.shows_examples(registry.sha256),
            context_length=context_length,
        )
    if mode == genai.BEST:
        engine = genai.GenaiEngine(
            settings.models["onnxruntime_genai"],
            vocab_size=bundle.model.vocab_size,
            context_length=context_length,
        )
        return _ours(settings, mode, engine)
    gguf = settings.models["llama_cpp"]
    if mode == llama_cpp.USERS:
        return llama_cpp.LlamaCppChat(
            gguf, registry, threads=settings.threads, context_length=context_length
        )
    return _ours(
        settings,
        mode,
        llama_cpp.LlamaCppEngine(gguf, threads=settings.threads, context_length=context_length),
    )


def _ours(
    settings: Settings,
    mode: str,
    engine: genai.GenaiEngine | llama_cpp.LlamaCppEngine | None = None,
) -> Ours:
    features = MODES.get(mode, UNDER_ANOTHER)
    if mode == llama_cpp.DRAFTED:
        features = dataclasses.replace(features, draft=True)
    return Ours(
        settings.bundle,
        settings.skills,
        features,
        threads=settings.threads,
        provider=settings.provider,
        allow_fallback=settings.allow_fallback,
        engine=engine,
    )


def _measure(settings: Settings, mode: str, sentences: tuple[str, ...]) -> Result:
    started = time.perf_counter()
    measured = contender(settings, mode)
    load_ms = (time.perf_counter() - started) * 1e3
    try:
        for sentence in _WARM_UP:
            measured(sentence)
        samples = tuple(measured(sentence) for sentence in sentences)
        # Before the bandwidth is measured, which takes memory of its own.
        peak_mb = peak_memory_mb()
        extra = measured.costs()
        if mode in MODES:
            bandwidth = read_bandwidth(settings.threads)
            weight_bytes = Bundle.load(settings.bundle, verify=False).weight_bytes
            extra["bandwidth_gb_s"] = round(bandwidth / 1e9, 2)
            extra["floor_ms"] = round(weight_bytes / bandwidth * 1e3, 3)
    finally:
        measured.close()
    return Result(mode, load_ms, peak_mb, samples, extra, measured.runtime)
