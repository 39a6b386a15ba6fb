"""Pieces of a cache that are kept aside, to be put together anew behind each other.

A key was turned for the position at which it was computed (rotary embedding, Su et al. 2021,
section 3.2.2). Turns add up, so at another position it is turned by the difference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Pieces:
    """Keeps pieces of a cache in FP16 and makes whole caches of them in FP32."""

    def __init__(self, thetas: Sequence[float], dim: int) -> None:
        """Begin without pieces.

        Args:
            thetas: Base of the rotary embedding, for each layer.
            dim: Features of a head.
        """
        exponents = np.arange(0, dim, 2) / dim
        # By how much each pair of features turns from one position to the next, in radians.
        self._turns: list[tuple[slice | NDArray[np.intp], NDArray[np.float64]]] = [
            (slice(None) if len(set(thetas)) == 1 else np.flatnonzero(np.equal(thetas, theta)),
             theta**-exponents)
            for theta in sorted(set(thetas))
        ]  # fmt: skip
        self._starts: list[int]
        self._keys: list[NDArray[np.float16]]
        self._values: list[NDArray[np.float16]]
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
        moves = np.empty(count)
        at = 0
        for number in numbers:
            end = at + self._keys[number].shape[2]
            keys[:, :, at:end] = self._keys[number]
            values[:, :, at:end] = self._values[number]
            moves[at:end] = at - self._starts[number]
            at = end
        moved = np.flatnonzero(moves)
        if moved.size:
            self._turn(keys[:, :, moved[0] :], moves[moved[0] :])
        return keys, values

    def _turn(self, keys: NDArray[np.float32], moves: NDArray[np.float64]) -> None:
        """Turn keys ``[layers, kv, n, dim]`` for the places to which their tokens were moved."""
        half = keys.shape[3] // 2
        for layers, turns in self._turns:
            angles = moves[:, None] * turns
            cosines, sines = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
            one, other = keys[layers, :, :, :half], keys[layers, :, :, half:]
            first = one * cosines - other * sines
            keys[layers, :, :, half:] = other * cosines + one * sines
            keys[layers, :, :, :half] = first


def _part(layers: Sequence[NDArray[np.float32]], start: int, end: int) -> NDArray[np.float16]:
    return np.concatenate([layer[:, :, start:end] for layer in layers]).astype(np.float16)
