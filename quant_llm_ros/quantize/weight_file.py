"""The file beside model.onnx that holds the weights' bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnx_ir as ir

_ALIGNMENT = 64  # a cache line, and the widest load of any CPU or GPU that maps the file

_DTYPES: Mapping[str, ir.DataType] = {
    "float32": ir.DataType.FLOAT,
    "int8": ir.DataType.INT8,
    "int64": ir.DataType.INT64,
    "uint8": ir.DataType.UINT8,
}


def pack_int4(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Pack 4-bit codes as ONNX stores INT4: two in a byte, the earlier one in the low half.

    Args:
        codes: -8 to 7, an even number of them, of any shape.

    Returns:
        Bytes, ``[codes.size / 2]``.
    """
    nibbles = codes.reshape(-1).view(np.uint8) & np.uint8(15)
    return nibbles[0::2] | (nibbles[1::2] << np.uint8(4))


class WeightFile:
    """Writes arrays one after the other and hands out ONNX tensors that point at them.

    An array is forgotten as soon as it is written, so exporting needs the memory of one layer.
    """

    def __init__(self, path: Path) -> None:
        """Create the file; an existing one is overwritten."""
        self._path = path
        self._file = path.open("wb")

    def __enter__(self) -> WeightFile:
        """Use the file in a ``with`` statement."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._file.close()

    def add(self, name: str, array: NDArray[Any]) -> ir.ExternalTensor:
        """Append an array of a type that numpy has too."""
        return self._append(name, array, _DTYPES[array.dtype.name], array.shape)

    def add_int4(
        self, name: str, codes: NDArray[np.int8], dtype: ir.DataType = ir.DataType.INT4
    ) -> ir.ExternalTensor:
        """Append codes of 4 bits, INT4 or another type of that width, two in a byte."""
        even = codes if codes.size % 2 == 0 else np.append(codes, np.int8(0))
        return self._append(name, pack_int4(even), dtype, codes.shape)

    def add_as(self, name: str, array: NDArray[Any], dtype: ir.DataType) -> ir.ExternalTensor:
        """Append the bytes of an array as numbers of another type of the same width."""
        return self._append(name, array, dtype, array.shape)

    def view(
        self, name: str, tensor: ir.ExternalTensor, dtype: ir.DataType | None = None
    ) -> ir.ExternalTensor:
        """Point at the bytes of a tensor again.

        Args:
            name: Name of the new tensor.
            tensor: What :meth:`add` or :meth:`add_int4` returned.
            dtype: ``UINT8`` to read an INT4 tensor with even rows as bytes; default is its type.
        """
        shape = [int(size) for size in tensor.shape.numpy()]
        if dtype == ir.DataType.UINT8 and tensor.dtype == ir.DataType.INT4:
            shape[-1] //= 2
        return self._tensor(name, dtype or tensor.dtype, shape, tensor.offset, tensor.length)

    def _append(
        self, name: str, array: NDArray[Any], dtype: ir.DataType, shape: tuple[int, ...]
    ) -> ir.ExternalTensor:
        self._file.write(bytes(-self._file.tell() % _ALIGNMENT))
        offset = self._file.tell()
        self._file.write(np.ascontiguousarray(array).data)
        return self._tensor(name, dtype, list(shape), offset, array.nbytes)

    def _tensor(
        self, name: str, dtype: ir.DataType, shape: list[int], offset: int, length: int
    ) -> ir.ExternalTensor:
        return ir.ExternalTensor(
            self._path.name,
            offset,
            length,
            dtype,
            shape=ir.Shape(shape),
            name=name,
            base_dir=self._path.parent,
        )
