"""Puts the W4A16 product of kernels/ into a graph of target ``tensorrt``, as a TensorRT plugin.

A ``DequantizeLinear`` of INT4 codes in blocks of 64 and the ``MatMul`` behind it become one node,
its weights in the layout of ``kernels/gemv_w4a16.py``: row by row, where ONNX has them column by
column. Everything else stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
import onnx_ir as ir

from quant_llm_ros.errors import EngineError
from quant_llm_ros.quantize.weight_file import pack_int4, WeightFile

OPERATOR = "gemv_w4a16"
BLOCK = 64


@dataclasses.dataclass(frozen=True)
class Rewritten:
    """A graph with plugins.

    Attributes:
        path: Its file.
        products: How many products are plugins.
        left: Why other dequantized weights stay as they are, and how many of each.
    """

    path: Path
    products: int
    left: Mapping[str, int]

    def __str__(self) -> str:
        """Say it in a line, for a person."""
        rest = "".join(f"; left: {count} {why}" for why, count in sorted(self.left.items()))
        return f"{self.products} products are plugins{rest}"


def with_plugins(source: Path, folder: Path, namespace: str) -> Rewritten:
    """Write a copy of a graph in which the plugin computes what it can.

    Args:
        source: The bundle's ``model.onnx``; it is not changed.
        folder: An empty folder for the copy and its weights.
        namespace: TensorRT's namespace of the plugin.

    Returns:
        What was written.

    Raises:
        EngineError: The graph has no product that the plugin computes.
    """
    model = ir.load(source)
    graph = model.graph
    before = list(graph.initializers.values())
    left: Counter[str] = Counter()
    products = 0
    path = folder / source.name
    with WeightFile(path.with_name(f"{path.name}.data")) as file:
        for node in list(graph):
            if node.op_type != "DequantizeLinear":
                continue
            why = _unfit(node)
            if why:
                left[why] += 1
                continue
            products += _replace(node, file, namespace)
        if not products:
            reasons = ", ".join(f"{count} {why}" for why, count in sorted(left.items()))
            raise EngineError(
                f"{source} has no product that the plugin computes ({reasons or 'no INT4'}); it "
                f"needs symmetric INT4 weights in blocks of {BLOCK}, as config/recipes/"
                f"tensorrt.yaml makes them; leave --plugins out"
            )
        for value in before:
            if not value.uses() and not value.is_graph_output():
                del graph.initializers[str(value.name)]
            elif isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = _copied(file, value.const_value)
        graph.opset_imports[namespace] = 1
        ir.save(model, path)
    return Rewritten(path, products, dict(left))


def _unfit(node: ir.Node) -> str:
    """Say why a dequantized weight stays as it is; nothing where the plugin takes it."""
    codes, scales = (None if value is None else value.const_value for value in node.inputs[:2])
    if codes is None or codes.dtype != ir.DataType.INT4:
        return "not INT4"
    block = node.attributes.get_int("block_size", 0)
    if block != BLOCK:
        return f"in blocks of {block}"
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        return "with zero points"
    shape = tuple(codes.shape.numpy())
    in_rows = len(shape) == 2 and node.attributes.get_int("axis", 1) == 0
    if not in_rows or scales is None or scales.dtype != ir.DataType.FLOAT16:
        return "of another layout"
    if tuple(scales.shape.numpy()) != (shape[0] // BLOCK, shape[1]) or shape[0] % BLOCK:
        return f"whose inputs are no multiple of {BLOCK}"
    uses = node.outputs[0].uses()
    if not uses or any(use.op_type != "MatMul" or place != 1 for use, place in uses):
        return "read by something other than a product"
    return ""


def _replace(node: ir.Node, file: WeightFile, namespace: str) -> int:
    """Let the plugin do the products with a weight; return how many those are."""
    codes, scales = (value.const_value for value in node.inputs if value is not None)
    assert codes is not None and scales is not None and node.graph is not None
    name = str(codes.name)
    words = packed_words(codes.numpy().astype(np.int8))
    rows = np.ascontiguousarray(scales.numpy().T)
    weights = [
        ir.Value(
            name=tensor.name,
            const_value=tensor,
            shape=tensor.shape,
            type=ir.TensorType(tensor.dtype),
        )
        for tensor in (
            file.add_as(f"{name}.words", words, ir.DataType.INT32),
            file.add_as(f"{name}.rows", rows, ir.DataType.FLOAT16),
        )
    ]
    products = [use for use, _ in node.outputs[0].uses()]
    for value in weights:
        node.graph.initializers.add(value)
    for product in products:
        plugin = ir.node(
            OPERATOR,
            [product.inputs[0], *weights],
            # Read by TensorRT's parser: which plugin, and that its compiled kernel is meant.
            {"plugin_namespace": namespace, "plugin_version": "1", "aot": 1},
            domain=namespace,
            outputs=[ir.Value(name=None)],
            name=product.name,
        )
        result = product.outputs[0]
        new = plugin.outputs[0]
        new.name, new.shape, new.type = result.name, result.shape, result.type
        node.graph.insert_before(product, plugin)
        ir.convenience.replace_all_uses_with(result, new, replace_graph_outputs=True)
        node.graph.remove(product, safe=True)
    node.graph.remove(node, safe=True)
    return len(products)


def packed_words(codes: NDArray[np.int8]) -> NDArray[np.int32]:
    """Pack codes as the kernel reads them.

    Args:
        codes: -8 to 7, ``[in, out]``, inputs a multiple of 8.

    Returns:
        For each output its inputs one after the other, two in a byte, the first in the lower half;
        four bytes of them in a word: ``[out, in / 8]``.
    """
    inputs, out = codes.shape
    return pack_int4(np.ascontiguousarray(codes.T)).view("<i4").reshape(out, inputs // 8)


def _copied(file: WeightFile, tensor: ir.ExternalTensor) -> ir.ExternalTensor:
    """Copy a tensor into the file of the new graph, its bytes as they are."""
    content = np.frombuffer(tensor.tobytes(), dtype=np.uint8)
    copy = file.add_as(str(tensor.name), content, tensor.dtype)
    return ir.ExternalTensor(
        copy.location,
        copy.offset,
        copy.length,
        tensor.dtype,
        shape=tensor.shape,
        name=str(tensor.name),
        base_dir=copy.base_dir,
    )
