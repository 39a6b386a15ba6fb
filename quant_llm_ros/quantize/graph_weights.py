"""How a weight of any method is written into a graph, and read there.

What a runtime has a kernel for is written for that kernel: integers with a scale per block as
INT4 or INT8 behind a DequantizeLinear, which is fused with the product. Everything else is written
in its stored width too, where the target unpacks it when it loads the model (``ort``: standard
operators on constants, which ONNX Runtime computes once); it then runs, and takes memory, as FP32.
The other targets get such weights as numbers.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
import onnx_ir as ir
import torch
from torch import Tensor

from quant_llm_ros.quantize.methods.grid import BLOCKS
from quant_llm_ros.quantize.tensors import InputQuantizer, QuantizedTensor
from quant_llm_ros.quantize.weight_file import WeightFile

Weight: TypeAlias = "QuantizedTensor | torch.Tensor"

FLOAT_TYPES = {
    torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16,
    torch.float8_e4m3fn: ir.DataType.FLOAT8E4M3FN,
    torch.float8_e5m2: ir.DataType.FLOAT8E5M2,
}


class WeightGraph:
    """A graph under construction, with weights in it.

    Attributes:
        float_type: Type of the numbers between two nodes.
        integer_products: Products of INT8 with INT8 are written as such. Otherwise as products of
            dequantized numbers, which the runtime recognizes; ONNX Runtime misses those whose
            inputs have several readers.
    """

    float_type = ir.DataType.FLOAT
    integer_products = True

    def __init__(self, file: WeightFile) -> None:
        """Begin an empty graph whose weights go to ``file``."""
        self.file = file
        self.tape = ir.tape.Tape()
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self.without_kernel = 0
        """Number of quantized weights that the runtime multiplies as floating-point numbers."""

    def op(self, kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """Add a node with one output."""
        return self.tape.op(kind, inputs, attributes)

    def ints(self, values: int | list[int]) -> ir.Value:
        """Add a small int64 constant."""
        return self.constant(np.array(values, dtype=np.int64))

    def constant(self, array: NDArray[Any]) -> ir.Value:
        """Add a small constant; equal ones are one."""
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._constants[key] = self.tape.initializer(ir.tensor(array, name=name))
        return self._constants[key]

    def number(self, value: float) -> ir.Value:
        """Add a constant of the type between two nodes."""
        half = self.float_type == ir.DataType.FLOAT16
        return self.constant(np.array(value, dtype=np.float16 if half else np.float32))

    def initializer(self, name: str, array: NDArray[Any]) -> ir.Value:
        """Write an array to the weight file."""
        return self.tape.initializer(self.file.add(name, array))

    # What a target may see otherwise.

    def native(self, weight: QuantizedTensor) -> Weight:
        """Give the form of a weight that this target writes.

        Returns:
            The weight itself, an equal one of another width or block, or its values.
        """
        if weight.is_integer:
            return as_blocks(weight) or weight.dequantize()
        return weight

    def has_kernel(self, weight: Weight) -> bool:
        """Whether the runtime multiplies with the codes."""
        return isinstance(weight, QuantizedTensor) and weight.is_integer

    # Writing and reading.

    def taken(self, weight: Weight) -> Weight:
        """Take a weight as the methods make it, in the form of this target."""
        if isinstance(weight, Tensor):
            return weight
        form = self.native(weight)
        self.without_kernel += not self.has_kernel(form)
        return form

    def matrix(self, weight: Weight, name: str) -> list[ir.Value]:
        """Write a weight as ``[in, out]``: codes and what belongs to them, or the values."""
        if isinstance(weight, Tensor):
            return [self.initializer(name, weight.T.contiguous().numpy())]
        if weight.codebook is not None:
            return self._packed(weight, name)
        kind = FLOAT_TYPES.get(weight.codes.dtype)
        if kind is not None:
            codes = weight.codes.T.contiguous()
            raw = codes.view(torch.uint8 if weight.bits == 8 else torch.int16).numpy()
            values = [self.tape.initializer(self.file.add_as(name, raw, kind))]
        else:
            add = self.file.add_int4 if weight.bits == 4 else self.file.add
            values = [self.tape.initializer(add(name, weight.codes.T.contiguous().numpy()))]
        if weight.scales is not None:
            scales = weight.scales.T.contiguous().numpy()  # [in / block, out or 1]
            if _per_row(weight):
                scales = scales[0] if scales.size > 1 else scales.reshape(())
            values.append(self.initializer(f"{name}.scales", scales))
        if weight.zero_points is not None:
            zeros = weight.zero_points.T.contiguous().numpy()
            values.append(self.tape.initializer(add(f"{name}.zeros", zeros)))
        return values

    def dequantized(self, weight: Weight, matrix: list[ir.Value]) -> ir.Value:
        """Values of a weight that :meth:`matrix` wrote, ``[in, out]``."""
        if isinstance(weight, Tensor):
            return matrix[0]
        if weight.codebook is not None:
            return self._unpacked(weight, matrix)
        if not weight.is_integer and not self.has_kernel(weight):
            numbers = self.op("Cast", matrix[0], to=self.float_type)
            return self._scaled(numbers, weight, matrix[1]) if len(matrix) > 1 else numbers
        if _per_row(weight):
            return self.op("DequantizeLinear", *matrix, axis=1)
        return self.op("DequantizeLinear", *matrix, axis=0, block_size=weight.block)

    def product(self, x: ir.Value, weight: Weight, matrix: list[ir.Value]) -> ir.Value:
        """Multiply ``[…, in]`` with a weight that :meth:`matrix` wrote: ``[…, out]``."""
        if isinstance(weight, Tensor):
            return self.op("MatMul", x, matrix[0])
        if weight.inputs is not None:
            if _whole_rows(weight) and self.integer_products:
                return self._integer_product(x, weight.inputs, matrix)
            return self.op(
                "MatMul", self.rounded(x, weight.inputs), self.dequantized(weight, matrix)
            )
        y = self.op("MatMul", x, self.dequantized(weight, matrix))
        if weight.low_rank is not None:
            name = str(matrix[0].name)
            for part, factor in zip("ab", weight.low_rank, strict=True):
                values = self.initializer(f"{name}.lora_{part}", factor.T.contiguous().numpy())
                x = self.op("MatMul", x, values)
            y = self.op("Add", y, x)
        return y

    def rounded(self, x: ir.Value, inputs: InputQuantizer) -> ir.Value:
        """Round the inputs of a layer, and give the numbers that the codes stand for."""
        if inputs.scale is None:
            codes, step = self._token_codes(x, inputs.bits)
            return self.op("Mul", codes, step)
        scale = self.number(inputs.scale)
        if inputs.floating:
            kind = ir.DataType.FLOAT8E4M3FN
            codes = self.op("QuantizeLinear", x, scale, output_dtype=kind)
            return self.op("DequantizeLinear", codes, scale)
        if inputs.bits == 8:
            zero = self.constant(np.array(0, dtype=np.int8))
            codes = self.op("QuantizeLinear", x, scale, zero)
            return self.op("DequantizeLinear", codes, scale, zero)
        codes = self._clipped(self.op("Round", self.op("Div", x, scale)), inputs.bits)
        return self.op("Mul", codes, scale)

    def _token_codes(self, x: ir.Value, bits: int) -> tuple[ir.Value, ir.Value]:
        """Codes of each token by its own largest input, as numbers, and the step sizes."""
        largest = self.op("ReduceMax", self.op("Abs", x), self.ints([-1]), keepdims=1)
        step = self.op("Div", largest, self.number(2 ** (bits - 1) - 1))
        step = self.op("Max", step, self.number(float(np.finfo(np.float32).tiny)))
        return self._clipped(self.op("Round", self.op("Div", x, step)), bits), step

    def _clipped(self, codes: ir.Value, bits: int) -> ir.Value:
        limit = 2 ** (bits - 1)
        return self.op("Clip", codes, self.number(-limit), self.number(limit - 1))

    def _integer_product(
        self, x: ir.Value, inputs: InputQuantizer, matrix: list[ir.Value]
    ) -> ir.Value:
        """Multiply INT8 codes of tokens with INT8 codes of outputs: the sums are INT32."""
        if inputs.scale is None:
            codes, step = self._token_codes(x, inputs.bits)
            codes = self.op("Cast", codes, to=ir.DataType.INT8)
        else:
            step = self.number(inputs.scale)
            codes = self.op("QuantizeLinear", x, step, self.constant(np.array(0, dtype=np.int8)))
        sums = self.op("MatMulInteger", codes, matrix[0])
        numbers = self.op("Cast", sums, to=self.float_type)
        return self.op("Mul", self.op("Mul", numbers, step), matrix[1])

    # Packed codes, which the runtime unpacks when it loads the model.

    def _packed(self, weight: QuantizedTensor, name: str) -> list[ir.Value]:
        """Write bit planes of the codes, the codebook and the scales."""
        assert weight.codebook is not None
        codes = weight.codes.T.contiguous().numpy().view(np.uint8)  # [in, out]
        padded = np.pad(codes, ((0, 0), (0, -codes.shape[1] % 8)))
        values = []
        for bit in range(weight.bits):
            plane = np.packbits((padded >> bit) & 1, axis=1, bitorder="little")
            values.append(self.initializer(f"{name}.bit_{bit}", plane))
        values.append(self.initializer(f"{name}.codebook", weight.codebook.reshape(-1).numpy()))
        if weight.scales is not None:
            scales = weight.scales.T.contiguous().numpy()
            values.append(self.initializer(f"{name}.scales", scales))
        if weight.residual is not None:
            values += self._packed(weight.residual, f"{name}.residual")
        return values

    def _unpacked(self, weight: QuantizedTensor, matrix: list[ir.Value]) -> ir.Value:
        """Look the codes up and scale them: ``[in, out]``."""
        assert weight.codebook is not None
        out, inputs = weight.shape
        shifts = self.constant(np.arange(8, dtype=np.uint8))
        one = self.constant(np.array(1, dtype=np.uint8))
        codes: ir.Value | None = None
        for bit in range(weight.bits):
            bytes_ = self.op("Unsqueeze", matrix[bit], self.ints([2]))
            flags = self.op(
                "BitwiseAnd", self.op("BitShift", bytes_, shifts, direction="RIGHT"), one
            )
            place = self.constant(np.array(bit, dtype=np.uint8))
            plane = self.op("BitShift", flags, place, direction="LEFT")
            codes = plane if codes is None else self.op("BitwiseOr", codes, plane)
        assert codes is not None
        codes = self.op("Reshape", codes, self.ints([inputs, -1]))
        if out % 8:
            codes = self.op("Slice", codes, self.ints([0]), self.ints([out]), self.ints([1]))
        codes = self.op("Cast", codes, to=ir.DataType.INT32)
        books, size = weight.codebook.shape
        if books > 1:
            first = np.repeat(np.arange(books, dtype=np.int32) * size, out // books)
            codes = self.op("Add", codes, self.constant(first))
        rest = matrix[weight.bits :]
        numbers = self.op("Gather", rest[0], codes)
        used = 1
        if weight.scales is not None:
            numbers = self._scaled(numbers, weight, rest[1])
            used = 2
        if weight.residual is None:
            return numbers
        return self.op("Add", numbers, self._unpacked(weight.residual, rest[used:]))

    def _scaled(self, numbers: ir.Value, weight: QuantizedTensor, scales: ir.Value) -> ir.Value:
        """Multiply numbers ``[in, out]`` with the scales of their blocks."""
        out, inputs = weight.shape
        if weight.block == inputs:
            return self.op("Mul", numbers, scales)
        blocks = self.op("Reshape", numbers, self.ints([-1, weight.block, out]))
        scaled = self.op("Mul", blocks, self.op("Unsqueeze", scales, self.ints([1])))
        return self.op("Reshape", scaled, self.ints([inputs, out]))


def as_blocks(weight: QuantizedTensor, largest: int = max(BLOCKS)) -> QuantizedTensor | None:
    """Give integer codes the width and the blocks that INT4 and INT8 kernels take.

    Codes of 2 and 3 bits fit into INT4. A scale of a whole row is repeated for its blocks.

    Args:
        weight: Integer codes.
        largest: The largest block that the kernels take.

    Returns:
        An equal tensor, or None where no block divides the inputs.
    """
    assert weight.scales is not None
    bits = 4 if weight.bits <= 4 else 8
    out = len(weight.codes)
    blocks = [size for size in BLOCKS if size <= largest]
    if _whole_rows(weight) or (weight.block in blocks and len(weight.scales) == out):
        return dataclasses.replace(weight, bits=bits)
    block = next((size for size in reversed(blocks) if not weight.block % size), None)
    if block is None:
        return None

    def repeated(values: Tensor) -> Tensor:
        blocks = values.repeat_interleave(weight.block // block, dim=1)
        return blocks.expand(out, -1).contiguous()

    zeros = weight.zero_points
    return dataclasses.replace(
        weight,
        bits=bits,
        block=block,
        scales=repeated(weight.scales),
        zero_points=None if zeros is None else repeated(zeros),
    )


def _per_row(weight: QuantizedTensor) -> bool:
    """Whether the scales are written without blocks: one per output, or a single one.

    Integers have blocks, of which there may be one: without them they are not fused.
    """
    return weight.block == weight.shape[1] and (not weight.is_integer or _whole_rows(weight))


def _whole_rows(weight: QuantizedTensor) -> bool:
    """Whether codes and inputs are such that a product of INT8 with INT8 can take them.

    Other INT8 rows are written in blocks: ONNX Runtime multiplies those with FP32.
    """
    return (
        weight.inputs is not None
        and weight.inputs.bits == 8
        and not weight.inputs.floating
        and weight.is_integer
        and weight.bits > 4
        and weight.zero_points is None
        and weight.block == weight.shape[1]
        and weight.scales is not None
        and len(weight.scales) == weight.shape[0]
    )
