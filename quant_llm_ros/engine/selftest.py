"""Proof that an engine computes what its bundle was built to compute."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import itertools
import statistics
import time
import zipfile

import numpy as np
from numpy.typing import NDArray

from quant_llm_ros.engine.bundle import Bundle, REFERENCE
from quant_llm_ros.engine.protocol import Engine
from quant_llm_ros.errors import BundleError

# What is normal depends on the model: ONNX Runtime rounds activations to INT8, and that moves the
# logits of the default bundle by up to 0.038 (in FP32 by 1e-5). The build has measured it, after
# it has proved the graph in FP32, so twice that passes: processors round differently. In the
# default bundle one wrong token at the start of the prompt moves the logits by up to 0.15, a
# missing last token by 1.
MARGIN = 2.0
LEAST_LIMIT = 0.02
# Where nothing was measured, and what a build accepts: beyond it INT8 activations do not work.
MOST_LIMIT = 0.25

_TIMED_TOKENS = 32


@dataclasses.dataclass(frozen=True)
class SelfTestReport:
    """Result of a self-test.

    Attributes:
        relative_error: Largest difference of a logit from the reference, divided by the largest
            reference logit of that prompt; the worst prompt's.
        worst_prompt: Index of that prompt.
        passed: The error is below the limit.
        limit: The limit.
        prompts: Number of prompts.
    """

    relative_error: float
    worst_prompt: int
    passed: bool
    limit: float
    prompts: int = 0

    def __str__(self) -> str:
        """Say which prompt was worst and how far it is, for a person."""
        return (
            f"the logits of prompt {self.worst_prompt} of {self.prompts} are "
            f"{self.relative_error:.3g} from the reference (relative), the limit is "
            f"{self.limit:.3g}"
        )


@dataclasses.dataclass(frozen=True)
class Timings:
    """How fast an engine is, medians over the reference prompts.

    Attributes:
        prefill_ms_per_token: A pass over a command, behind the prompt that all commands share, by
            its tokens, in milliseconds.
        decode_ms_per_token: A pass over one token behind a prompt, in milliseconds.
    """

    prefill_ms_per_token: float
    decode_ms_per_token: float


def limit_of(bundle: Bundle) -> float:
    """Largest relative error with which an engine of this bundle passes its self-test."""
    measured = bundle.figures.get("engine_relative_error")
    if not isinstance(measured, (int, float)):
        return MOST_LIMIT
    return min(max(MARGIN * measured, LEAST_LIMIT), MOST_LIMIT)


def self_test(engine: Engine, bundle: Bundle) -> SelfTestReport:
    """Compare an engine with the bundle's reference logits.

    The cache is emptied before and after.

    Args:
        engine: Loaded from the bundle.
        bundle: Has ``reference.npz``.

    Returns:
        What was measured.

    Raises:
        BundleError: The reference cannot be read.
        EngineError: The engine failed.
    """
    prompts, expected = _reference(bundle)
    shared = fill_shared(engine, prompts)
    errors = []
    for prompt, row in zip(prompts, expected, strict=True):
        engine.rollback(shared)
        logits = engine.append(prompt[shared:])[-1]
        # A logit that is not finite must fail, and NaN compares as false with any limit.
        difference = np.abs(np.nan_to_num(logits, nan=np.inf) - row).max()
        errors.append(float(difference / np.abs(row).max()))
    engine.rollback(0)
    worst = int(np.argmax(errors))
    limit = limit_of(bundle)
    return SelfTestReport(errors[worst], worst, errors[worst] <= limit, limit, len(errors))


def time_engine(engine: Engine, bundle: Bundle) -> Timings:
    """Time an engine on the bundle's reference prompts; its cache is emptied before and after.

    Raises:
        BundleError: The reference cannot be read.
        EngineError: The engine failed.
    """
    prompts, _ = _reference(bundle)
    shared = fill_shared(engine, prompts)
    engine.append(prompts[0][shared:])  # what a runtime prepares at its first pass does not count
    prefill, decode = [], []
    for prompt in prompts:
        engine.rollback(shared)
        own = prompt[shared:]
        begin = time.perf_counter()
        engine.append(own)
        prefill.append((time.perf_counter() - begin) / len(own))
    for _ in range(min(_TIMED_TOKENS, engine.context_length - engine.length)):
        begin = time.perf_counter()
        engine.append(prompts[0][:1])
        decode.append(time.perf_counter() - begin)
    engine.rollback(0)
    # A short context can be full after the prompt: then nothing was decoded.
    return Timings(statistics.median(prefill) * 1e3, statistics.median(decode or prefill) * 1e3)


def fill_shared(engine: Engine, prompts: Sequence[Sequence[int]]) -> int:
    """Put the beginning that all prompts share into an engine's cache, as it is at run time.

    Returns:
        How many tokens that are; less than the shortest prompt has.
    """
    columns = zip(*(prompt[:-1] for prompt in prompts), strict=False)
    same = itertools.takewhile(lambda column: len(set(column)) == 1, columns)
    shared = sum(1 for _ in same)
    engine.rollback(0)
    if shared:
        engine.append(prompts[0][:shared])
        engine.mark()
    return shared


def _reference(bundle: Bundle) -> tuple[Sequence[list[int]], NDArray[np.float32]]:
    """Read the prompts and the logits of their last positions, float32 ``[prompts, vocab]``."""
    path = bundle.file(REFERENCE)
    try:
        with np.load(path, allow_pickle=False) as reference:
            tokens, offsets = reference["tokens"].tolist(), reference["offsets"].tolist()
            expected = reference["logits"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path} cannot be read ({error}); rebuild the bundle") from error
    return [tokens[a:b] for a, b in itertools.pairwise(offsets)], expected
