"""Proof that an engine computes what its bundle was built to compute."""

from __future__ import annotations

import dataclasses
import zipfile

import numpy as np

from quant_llm_ros.engine.bundle import Bundle, REFERENCE
from quant_llm_ros.engine.protocol import Engine
from quant_llm_ros.errors import BundleError

# ONNX Runtime's INT8 activations move the logits of the default bundle by up to 0.038, the same
# engine in FP32 by 1e-5. One wrong token at the start of the prompt moves them by 0.07 to 0.15, a
# missing last token by 1.
LIMIT = 0.06


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


def self_test(engine: Engine, bundle: Bundle, *, limit: float = LIMIT) -> SelfTestReport:
    """Compare an engine with the bundle's reference logits.

    The cache is emptied before and after.

    Args:
        engine: Loaded from the bundle.
        bundle: Has ``reference.npz``.
        limit: Largest relative error that passes.

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
    return SelfTestReport(errors[worst], worst, errors[worst] <= limit, limit)
