"""Proof that an engine computes what its bundle was built to compute."""

from __future__ import annotations

import dataclasses
import zipfile

import numpy as np

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


@dataclasses.dataclass(frozen=True)
class SelfTestReport:
    """Result of a self-test.

    Attributes:
        relative_error: Largest difference of a logit from the reference, divided by the largest
            reference logit of that prompt; the worst prompt's.
        worst_prompt: Index of that prompt.
        passed: The error is below the limit.
        limit: The limit.
    """

    relative_error: float
    worst_prompt: int
    passed: bool
    limit: float


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
    path = bundle.file(REFERENCE)
    try:
        with np.load(path, allow_pickle=False) as reference:
            tokens, offsets = reference["tokens"], reference["offsets"]
            expected = reference["logits"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path} cannot be read ({error}); rebuild the bundle") from error
    errors = []
    for i, row in enumerate(expected):
        engine.rollback(0)
        logits = engine.append(tokens[offsets[i] : offsets[i + 1]].tolist())[-1]
        # A logit that is not finite must fail, and NaN compares as false with any limit.
        difference = np.abs(np.nan_to_num(logits, nan=np.inf) - row).max()
        errors.append(float(difference / np.abs(row).max()))
    engine.rollback(0)
    worst = int(np.argmax(errors))
    limit = limit_of(bundle)
    return SelfTestReport(errors[worst], worst, errors[worst] <= limit, limit)
