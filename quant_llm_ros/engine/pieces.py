"""Pieces of a cache that are kept aside, to be put together anew behind each other.

A key was turned for the position at which it was computed (rotary embedding, Su et al. 2021,
section 3.2.2). Turns add up, so at another position it is turned by the difference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Pieces:
    """Keeps pieces of a cache and makes whole caches of them."""

    def __init__(self, thetas: Sequence[float], dim: int) -> None:
        """Begin without pieces.

        Args:
            thetas: Base of the rotary embedding, for each layer.
            dim: Features of a head.
        """
        self._thetas = tuple(thetas)
        self._exponents = np.arange(0, dim, 2) / dim
        self._starts: list[int]
        self._keys: list[NDArray[np.float32]]
        self._values: list[NDArray[np.float32]]
        self._room: NDArray[np.float32]
        self.clear()

    def clear(self) -> None:
        """Forget all pieces and release their memory."""
        self._starts, self._keys, self._values = [], [], []
        self._room = np.empty((2, 0), np.float32)

    @property
    def count(self) -> int:
        """Number of pieces."""
        return len(self._starts)

    def add(
        self,
        keys: Sequence[NDArray[np.float32]],
        values: Sequence[NDArray[np.float32]],
        start: int,
        end: int,
    ) -> int:
        """Keep a piece.

        Args:
            keys: Of each layer, ``[1, kv, held, dim]``.
            values: Likewise.
            start: Index of its first token.
            end: Index behind its last one.

        Returns:
            The number of the piece.
        """
        self._starts.append(start)
        self._keys.append(_part(keys, start, end))
        self._values.append(_part(values, start, end))
        return len(self._starts) - 1

    def length(self, numbers: Sequence[int]) -> int:
        """Give the number of tokens of some pieces."""
        return sum(self._keys[number].shape[2] for number in numbers)

    def together(self, numbers: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Put pieces behind each other.

        Args:
            numbers: Of the pieces, in order.

        Returns:
            Keys and values, ``[layers, kv, n, dim]``, in memory that the next call overwrites:
            new memory would first have to be cleared by the system.
        """
        layers, heads, _, dim = self._keys[numbers[0]].shape
        count = self.length(numbers)
        size = layers * heads * count * dim
        if self._room.shape[1] < size:
            self._room = np.empty((2, size), np.float32)
        keys, values = (room[:size].reshape(layers, heads, count, dim) for room in self._room)
        ends = np.cumsum([self._keys[number].shape[2] for number in numbers])
        spans = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        moves = np.empty(count)
        for number, span in zip(numbers, spans, strict=True):
            moves[span] = span.start - self._starts[number]
        first = int(np.argmax(moves != 0)) if moves.any() else count
        turns = {theta: self._turns(theta, moves[first:]) for theta in set(self._thetas)}
        # Layer by layer, what is read and written fits into the processor's cache.
        for layer, theta in enumerate(self._thetas):
            for number, span in zip(numbers, spans, strict=True):
                keys[layer, :, span] = self._keys[number][layer]
                values[layer, :, span] = self._values[number][layer]
            _turn(keys[layer, :, first:], *turns[theta])
        return keys, values

    def _turns(
        self, theta: float, moves: NDArray[np.float64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Give cosines and sines ``[n, dim / 2]`` of what moved tokens are turned by."""
        angles = moves[:, None] * theta**-self._exponents
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _turn(
    keys: NDArray[np.float32], cosines: NDArray[np.float32], sines: NDArray[np.float32]
) -> None:
    """Turn keys ``[kv, n, dim]`` where they are."""
    half = keys.shape[2] // 2
    one, other = keys[..., :half], keys[..., half:]
    turned = one * cosines - other * sines
    keys[..., half:] = other * cosines + one * sines
    keys[..., :half] = turned


def _part(layers: Sequence[NDArray[np.float32]], start: int, end: int) -> NDArray[np.float32]:
    return np.concatenate([layer[:, :, start:end] for layer in layers])
