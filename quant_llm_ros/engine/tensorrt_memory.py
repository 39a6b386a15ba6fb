"""The memory of an engine on the GPU: its inputs, its logits, its key-value cache."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from quant_llm_ros.engine.bundle import ModelInfo
from quant_llm_ros.engine.tensorrt_cuda import aligned, Cuda

_INTEGER_BYTES = 8  # of the int64 inputs
_FLOAT_BYTES = 4  # of the logits
_HALF_BYTES = 2  # of the cache


class Inputs:
    """The inputs of a pass, in one block, so that one copy brings them all to the GPU."""

    def __init__(self, cuda: Cuda, *, most_tokens: int, most_wanted: int) -> None:
        """Allocate them.

        Args:
            cuda: The GPU.
            most_tokens: Most new tokens of a pass.
            most_wanted: Most of them whose logits are wanted.
        """
        counts = {"write_index": 1, "logit_positions": most_wanted, "input_ids": most_tokens}
        offsets: dict[str, int] = {}
        self._bytes = 0
        for name, count in counts.items():
            offsets[name] = self._bytes
            self._bytes += aligned(count * _INTEGER_BYTES)
        staged = cuda.pinned(self._bytes, "the inputs")
        self._cuda = cuda
        self._source = staged.ctypes.data
        self._staged = {
            name: staged[offset : offset + counts[name] * _INTEGER_BYTES].view(np.int64)
            for name, offset in offsets.items()
        }
        self._block = cuda.allocate(self._bytes, "the inputs")
        self.addresses = {name: self._block + offset for name, offset in offsets.items()}

    def fill(self, ids: NDArray[np.int64], wanted: NDArray[np.int64], length: int) -> None:
        """Write the inputs of the next pass; the stream must have copied the last one's.

        Args:
            ids: The new tokens.
            wanted: Indices of those whose logits are wanted.
            length: Tokens in the cache.
        """
        self._staged["write_index"][0] = length
        self._staged["logit_positions"][: len(wanted)] = wanted
        self._staged["input_ids"][: len(ids)] = ids

    def send(self) -> None:
        """Let the stream copy them to the GPU."""
        self._cuda.copy(self._block, self._source, self._bytes, to_device=True)


class Logits:
    """The logits of a pass."""

    def __init__(self, cuda: Cuda, *, most_wanted: int, vocab_size: int) -> None:
        """Allocate them, ``[most_wanted, vocab_size]``."""
        size = most_wanted * vocab_size * _FLOAT_BYTES
        self._cuda = cuda
        self._row_bytes = vocab_size * _FLOAT_BYTES
        self._host = (
            cuda.pinned(size, "the logits").view(np.float32).reshape(most_wanted, vocab_size)
        )
        self.address = cuda.allocate(size, "the logits")

    def fetch(self, rows: int) -> None:
        """Let the stream copy the first rows to the host."""
        to, size = self._host.ctypes.data, rows * self._row_bytes
        self._cuda.copy(to, self.address, size, to_device=False)

    def rows(self, count: int) -> NDArray[np.float32]:
        """Copy of the rows that were fetched; the stream must have ended.

        A copy, because pinned memory goes when the engine is closed, and what was returned stays.
        """
        return self._host[:count].copy()


class KeyValueCache:
    """Keys and values of all layers, ``[kv_heads, context, head_dim]`` in FP16 each, cleared.

    Attributes:
        side: Which of two copies is read; always 0 where there is only one.
    """

    def __init__(self, cuda: Cuda, model: ModelInfo, *, in_place: bool) -> None:
        """Allocate it.

        Args:
            cuda: The GPU.
            model: Its shape.
            in_place: A pass writes where it reads; else it writes a second copy.
        """
        self.names = tuple(f"{part}_{i}" for i in range(model.layers) for part in ("key", "value"))
        self.side = 0
        self._cuda = cuda
        self._context, self._heads = model.context_length, model.key_value_heads
        self._row_bytes = model.head_dim * _HALF_BYTES
        self._step = aligned(self._heads * self._context * self._row_bytes)
        copies = 1 if in_place else 2
        size = self._step * len(self.names)
        self._copies = [cuda.allocate(size, "the key-value cache") for _ in range(copies)]

    @property
    def copies(self) -> int:
        """Number of copies: 1, or 2 that change roles."""
        return len(self._copies)

    def addresses(self) -> Iterator[tuple[str, int]]:
        """Name and address of every ``past_…`` and ``present_…``, as the roles are now."""
        past, present = self._copies[self.side], self._copies[(self.side + 1) % self.copies]
        for i, name in enumerate(self.names):
            yield f"past_{name}", past + i * self._step
            yield f"present_{name}", present + i * self._step

    def turn(self) -> None:
        """After a pass: what was written is what will be read."""
        self.side = (self.side + 1) % self.copies

    def clear(self, length: int) -> None:
        """Let the stream set every row behind the first ``length`` to zero."""
        width = (self._context - length) * self._row_bytes
        if not width:
            return
        pitch = self._context * self._row_bytes
        for copy in self._copies:
            for i in range(len(self.names)):
                start = copy + i * self._step + length * self._row_bytes
                self._cuda.call(
                    "cudaMemset2DAsync", start, pitch, 0, width, self._heads, self._cuda.stream
                )
