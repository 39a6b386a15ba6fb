"""What the decoding loop asks of an engine, whatever runtime is behind it."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class EngineInfo:
    """Where and how a model runs.

    Attributes:
        runtime: Runtime and its version, for example ``onnxruntime 1.31.1``.
        provider: Device or execution provider really in use.
        load_ms: Time it took to load the model, in milliseconds.
    """

    runtime: str
    provider: str
    load_ms: float


class Engine(Protocol):
    """A causal language model with a key-value cache that grows by appending tokens.

    An engine serves one sequence at a time and is used from one thread at a time.
    """

    info: EngineInfo
    vocab_size: int
    context_length: int

    @property
    def length(self) -> int:
        """Number of tokens in the cache."""

    def append(
        self, tokens: Sequence[int], *, last: int = 1, at: Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        """Run the model over new tokens and keep them in the cache.

        Args:
            tokens: Token ids, at least one.
            last: For how many of the last new tokens the logits are wanted, 1 to ``len(tokens)``.
            at: Indices of the new tokens whose logits are wanted, in place of ``last``; ascending,
                at least one, each from 0 to ``len(tokens) - 1``.

        Returns:
            Logits of the wanted tokens in their order, shape ``[last or len(at), vocab_size]``.
            The array may be overwritten by the next call.

        Raises:
            ValueError: No token, a token outside of the vocabulary, or wrong positions.
            ContextOverflowError: The cache would exceed ``context_length``; it is unchanged.
            EngineError: The runtime failed; the cache is unchanged.
        """

    def rollback(self, length: int) -> None:
        """Forget every token after the first ``length``.

        Raises:
            ValueError: ``length`` is negative or more than the cache holds.
        """

    def mark(self) -> None:
        """Hint that the present length will be rolled back to often, as after the prompt prefix.

        Only the last mark counts. Rolling back to it costs no copy.
        """

    def close(self) -> None:
        """Release the memory of the engine; it cannot be used afterwards."""


@runtime_checkable
class Gathering(Engine, Protocol):
    """An engine that can put its cache together from pieces of earlier ones."""

    def shelve(self, start: int, end: int) -> int:
        """Put a copy of a part of the cache aside, for ``gather``.

        Args:
            start: Index of its first token.
            end: Index behind its last token.

        Returns:
            The number of the piece.

        Raises:
            ValueError: The cache does not hold these tokens.
        """

    def gather(self, pieces: Sequence[int]) -> None:
        """Make the cache of pieces, behind each other, as if each had been computed there.

        It is marked: rolling back to its length costs no copy.

        Args:
            pieces: Numbers that ``shelve`` has given, at least one.

        Raises:
            ValueError: There is no such piece.
            ContextOverflowError: They exceed ``context_length``; the cache is unchanged.
        """
