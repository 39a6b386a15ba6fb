"""What a finished bundle does: accuracy, perplexity, memory, time, energy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import itertools
from pathlib import Path
import statistics
import time
from typing import Any

import numpy as np

from quant_llm_ros.command.evaluation import decide_alone, evaluate, load_dataset
from quant_llm_ros.command.understander import Understander
from quant_llm_ros.engine.bundle import Bundle, REFERENCE, TOKENIZER
from quant_llm_ros.engine.open import open_engine
from quant_llm_ros.engine.protocol import Engine
from quant_llm_ros.engine.selftest import fill_shared
from quant_llm_ros.engine.tokenizer import Tokenizer
from quant_llm_ros.report.energy import EnergyMeter, find_sensor
from quant_llm_ros.report.perplexity import perplexity, read_text

_DECODED = 32
_WARM_UP = "go"
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")

Progress = Callable[[str, float], None]
"""Told the name of the present stage and the fraction of the whole that is done."""


@dataclasses.dataclass(frozen=True)
class What:
    """What all bundles of a sweep are measured on.

    Attributes:
        datasets: Sentences with their meaning, JSON lines.
        text: Text for the perplexity, or None.
        windows: Most windows of it.
        window: Tokens of a window.
        threads: CPU threads.
    """

    datasets: tuple[str, ...]
    text: str | None
    windows: int
    window: int
    threads: int


def measure(bundle: Bundle, what: What, progress: Progress) -> dict[str, Any]:
    """Measure a bundle with the ``ort`` target.

    The peak of the memory is that of this process until the last decision: call it in a new one.

    Args:
        bundle: To measure.
        what: On what.
        progress: Told about stages.

    Returns:
        Figures by name as plain data; ``joules_per_decision`` and ``perplexity`` are None where
        nothing measured them.
    """
    figures: dict[str, Any] = {
        "size_mb": round(bundle.size_bytes / 1e6, 3),
        "weights_mb": round(bundle.files["model.onnx.data"].bytes / 1e6, 3),
    }
    figures |= _decide(bundle, what, progress)
    # Before the perplexity, whose logits take memory that no decision does.
    figures["peak_memory_mb"] = peak_memory_mb()
    engine = open_engine(bundle, threads=what.threads)
    progress("timing", 0.7)
    figures |= timings(engine, bundle)
    progress("perplexity", 0.75)
    figures["perplexity"] = None
    if what.text:
        tokens = Tokenizer(bundle.file(TOKENIZER)).encode(read_text(Path(what.text)))
        found = perplexity(engine, tokens, window=what.window, windows=what.windows)
        figures["perplexity"] = round(found.value, 4)
        figures["perplexity_tokens"] = found.tokens
    engine.close()
    return figures


def _decide(bundle: Bundle, what: What, progress: Progress) -> dict[str, Any]:
    """Decide about every sentence; the energy is that of the decisions alone."""
    rows = [(name, load_dataset(name)) for name in what.datasets]
    total = sum(len(part) for _, part in rows)
    # No threshold of confidence: methods are compared, not thresholds.
    understander = Understander.open(bundle.path, threads=what.threads, min_confidence=0.0)
    done = 0

    def note(_verdict: object) -> None:
        nonlocal done
        done += 1
        progress("deciding", 0.7 * done / total)

    figures: dict[str, Any] = {"datasets": {}}
    try:
        understander.understand(_WARM_UP)
        with EnergyMeter(find_sensor()) as used:
            for name, part in rows:
                decide = decide_alone(understander)
                figures["datasets"][Path(name).stem] = evaluate(
                    part, decide, understander.skills, on_verdict=note
                )
    finally:
        understander.close()
    joules = None if used.joules is None else round(used.joules / total, 4)
    shares = ("skills_exact", "all_exact", "right")
    for share in shares:  # over all sentences of all datasets
        parts = [(found[share], found["n"]) for found in figures["datasets"].values()]
        figures[share] = round(sum(value * n for value, n in parts) / total, 6)
    return {
        **figures,
        "decisions": total,
        "decision_ms": round(used.seconds * 1e3 / total, 3),
        "energy_sensor": used.sensor,
        "joules_per_decision": joules,
    }


def timings(engine: Engine, bundle: Bundle) -> dict[str, float]:
    """Time the reference commands, behind the prompt that they share, and decoding after the last.

    Args:
        engine: Of the bundle; its cache is emptied.
        bundle: Has the prompts.

    Returns:
        ``prefill_ms`` of a command, ``prefill_tokens`` that it has, ``decode_ms`` per token:
        medians.
    """
    prompts = reference_prompts(bundle)
    shared = fill_shared(engine, prompts)
    prefill: list[float] = []
    for prompt in (prompts[0], *prompts):  # the first pass also warms up
        engine.rollback(shared)
        begin = time.perf_counter()
        engine.append(prompt[shared:])
        prefill.append(time.perf_counter() - begin)
    decode = []
    for _ in range(min(_DECODED, engine.context_length - engine.length)):
        begin = time.perf_counter()
        engine.append([prompts[0][0]])
        decode.append(time.perf_counter() - begin)
    engine.rollback(0)
    return {
        "prefill_ms": round(statistics.median(prefill[1:]) * 1e3, 3),
        "prefill_tokens": statistics.median(len(prompt) - shared for prompt in prompts),
        "decode_ms": round(statistics.median(decode or prefill) * 1e3, 3),
    }


def reference_prompts(bundle: Bundle) -> list[Sequence[int]]:
    """Give the token ids of the bundle's reference prompts."""
    with np.load(bundle.file(REFERENCE), allow_pickle=False) as reference:
        tokens, offsets = reference["tokens"], reference["offsets"]
    return [tokens[a:b].tolist() for a, b in itertools.pairwise(offsets)]


def reset_peak_memory() -> None:
    """Begin the peak of the memory anew, with what is held now (proc(5), ``clear_refs``)."""
    with contextlib.suppress(OSError):  # a kernel without it: the peak is that of the whole life
        _CLEAR.write_text("5")


def peak_memory_mb() -> float:
    """Give the most memory that this program held since the last reset, in megabytes.

    Not ``getrusage``: its peak begins with that of the process which started this one.
    """
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) * 1024 / 1e6, 1)
    raise OSError(f"{_STATUS} has no VmHWM")
