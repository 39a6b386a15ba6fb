"""Perplexity: how surprised a model is by a text.

The exponential of the mean negative log-likelihood of a token given those before it (Jelinek et
al. 1977, «Perplexity, a measure of the difficulty of speech recognition tasks»). The text is cut
into windows that do not overlap, and the first token of each is not scored, as in GPTQ (Frantar et
al., arXiv:2210.17323, section 4). Figures compare only at the same window, text and tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quant_llm_ros.engine.protocol import Engine
from quant_llm_ros.errors import DatasetError

WINDOW = 256
_AT_A_TIME = 64  # logits of a large vocabulary take 200 kB a token


@dataclasses.dataclass(frozen=True)
class Perplexity:
    """A measured perplexity.

    Attributes:
        value: The perplexity.
        tokens: Number of tokens that were scored.
        window: Tokens of a window.
    """

    value: float
    tokens: int
    window: int


def perplexity(
    engine: Engine, tokens: Sequence[int], *, window: int = WINDOW, windows: int | None = None
) -> Perplexity:
    """Measure the perplexity of a text.

    Args:
        engine: Its cache is emptied before each window, and afterwards.
        tokens: The tokenized text.
        window: Tokens that are seen together; at most what the engine's context holds.
        windows: Most windows; None: all.

    Raises:
        DatasetError: The text has fewer than two tokens.
    """
    window = min(window, engine.context_length)
    total, scored = 0.0, 0
    starts = range(0, len(tokens) - 1, window)
    for start in list(starts)[:windows]:
        part = list(tokens[start : start + window])
        engine.rollback(0)
        for first in range(0, len(part) - 1, _AT_A_TIME):
            piece = part[first : min(first + _AT_A_TIME, len(part) - 1)]
            logits = engine.append(piece, last=len(piece))
            following = part[first + 1 : first + 1 + len(piece)]
            total -= float(log_likelihoods(logits, following).sum())
            scored += len(piece)
    engine.rollback(0)
    if not scored:
        raise DatasetError("the text for the perplexity has fewer than two tokens; give more")
    return Perplexity(math.exp(min(total / scored, 700.0)), scored, window)


def log_likelihoods(logits: NDArray[np.float32], tokens: Sequence[int]) -> NDArray[np.float64]:
    """Give the log-probabilities of tokens, ``[n]``, from logits ``[n, vocab]``."""
    rows = logits - logits.max(axis=1, keepdims=True)
    chosen = rows[np.arange(len(rows)), list(tokens)].astype(np.float64)
    # The terms in FP32, their sum in FP64: a quarter of the time, and 1e-8 from all in FP64.
    result: NDArray[np.float64] = chosen - np.log(np.exp(rows).sum(axis=1, dtype=np.float64))
    return result


def read_text(path: Path) -> str:
    """Read the text.

    Raises:
        DatasetError: It is missing or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8: {error}; convert it") from error
