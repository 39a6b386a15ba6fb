"""Pieces of a cache that are kept aside, to be put together anew behind each other.

A key was turned for the position at which it was computed (rotary embedding, Su et al. 2021).
Turns add up, so at another position it is turned by the difference. By how much each pair of
features turns from one position to the next is measured on the model itself: no bundle says it,
and what is measured holds for every kind of scaling.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quant_llm_ros.errors import EngineError

PROBE_TOKENS = 33
"""Number of equal tokens of which the turns are measured."""
_TOLERANCE = 0.02
"""Largest error of a turned key, as a part of its length. A wrong turn is off by more than 1."""


def measure_turns(keys: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Find by which angle each pair of features turns from one position to the next.

    Where all tokens are equal, so are all values, and whatever attention makes of them; then the
    keys of every layer differ by their turns alone.

    Args:
        keys: Of each layer for the same token ``PROBE_TOKENS`` times, ``[1, kv, n, dim]``.

    Returns:
        Angles in radians, ``[layers, dim / 2]``.

    Raises:
        EngineError: The keys are not turned like that.
    """
    turns: list[NDArray[np.float64]] = []
    for layer in keys:
        half = layer.shape[3] // 2
        numbers = layer[0].astype(np.float64)
        pairs = numbers[..., :half] + 1j * numbers[..., half:]  # [kv, n, half]
        # Mostly as in the first layer, where no rounding has gone before.
        for angles in (*turns[:1], _angles(pairs)):
            positions = np.arange(pairs.shape[1])[:, None]
            expected = pairs[:, :1] * np.exp(1j * positions * angles)
            if np.abs(pairs - expected).max() <= _TOLERANCE * np.abs(pairs).max():
                turns.append(angles)
                break
        else:
            raise EngineError(
                "the keys of this model are not turned by their position in the way that a "
                "shortlist of skills needs; set shortlist to 0"
            )
    return np.stack(turns)


def _angles(pairs: NDArray[np.complex128]) -> NDArray[np.float64]:
    angles = np.zeros(pairs.shape[2])
    distance = 1
    while distance < pairs.shape[1]:
        # What is known of an angle says how many whole turns lie in a greater distance.
        turned = (pairs[:, distance:] * pairs[:, :-distance].conj()).sum(axis=(0, 1))
        angles += np.angle(turned * np.exp(-1j * distance * angles)) / distance
        distance *= 2
    return angles


class Pieces:
    """Keeps pieces of a cache in FP16 and makes whole caches of them in FP32."""

    def __init__(self, turns: NDArray[np.float64]) -> None:
        """Begin without pieces.

        Args:
            turns: By how much pairs of features turn from one position to the next,
                ``[layers, dim / 2]``; see ``measure_turns``.
        """
        kinds, of_layer = np.unique(turns, axis=0, return_inverse=True)
        self._turns: list[tuple[slice | NDArray[np.intp], NDArray[np.float64]]] = [
            (slice(None) if len(kinds) == 1 else np.flatnonzero(of_layer.ravel() == index), row)
            for index, row in enumerate(kinds)
        ]
        self._starts: list[int] = []
        self._keys: list[NDArray[np.float16]] = []
        self._values: list[NDArray[np.float16]] = []
        self._room = np.empty((2, 0), np.float32)

    @property
    def count(self) -> int:
        """Number of pieces."""
        return len(self._starts)

    @property
    def memory_bytes(self) -> int:
        """Memory of all pieces."""
        return sum(part.nbytes for part in (*self._keys, *self._values))

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
            Keys and values, ``[layers, kv, n, dim]``. The next call overwrites them: it needs no
            new memory, which the system would have to clear first.
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
