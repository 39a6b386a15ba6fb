"""What a caller asks of an engine, checked in the same way for every runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quant_llm_ros.errors import ContextOverflowError

if TYPE_CHECKING:
    from quant_llm_ros.engine.protocol import Engine


def checked(
    engine: Engine, tokens: Sequence[int], last: int, at: Sequence[int] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Check the arguments of ``Engine.append``.

    Args:
        engine: The engine that is asked.
        tokens: Token ids.
        last: For how many of the last new tokens the logits are wanted.
        at: Indices of the new tokens whose logits are wanted, in place of ``last``.

    Returns:
        The tokens and the indices of those whose logits are wanted, int64 vectors.

    Raises:
        ValueError: No token, a token outside of the vocabulary, or wrong positions.
        ContextOverflowError: The cache would exceed the context.
    """
    ids = np.asarray(tokens, dtype=np.int64).reshape(-1)
    wanted = positions(len(ids), last, at)
    if int(ids.min()) < 0 or int(ids.max()) >= engine.vocab_size:
        raise ValueError(f"a token id is outside of the vocabulary of {engine.vocab_size}")
    if engine.length + len(ids) > engine.context_length:
        raise ContextOverflowError(
            f"{engine.length} + {len(ids)} tokens exceed the context of {engine.context_length}; "
            f"shorten the command or the skills' examples, or rebuild the bundle with a "
            f"larger context_length"
        )
    return ids, wanted


def positions(count: int, last: int, at: Sequence[int] | None) -> NDArray[np.int64]:
    """Give the indices of the new tokens whose logits are wanted.

    Raises:
        ValueError: They are not among the ``count`` new tokens, or do not ascend.
    """
    if at is None:
        if not 1 <= last <= count:
            raise ValueError(f"last is {last}, expected 1 to the number of tokens, {count}")
        return np.arange(count - last, count, dtype=np.int64)
    wanted = np.asarray(at, dtype=np.int64)
    if not len(wanted) or wanted[0] < 0 or wanted[-1] >= count or (np.diff(wanted) <= 0).any():
        raise ValueError(f"at is {list(at)}, expected ascending indices from 0 to {count - 1}")
    return wanted
