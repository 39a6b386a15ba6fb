"""Small ONNX graphs that keep or break one rule of a target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto

FP16, FP32, INT64 = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.INT64
Value = tuple[str, int, Sequence[int | str]]


def make_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    constants: dict[str, Any] | None = None,
    *,
    opset: int = 24,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """Make a graph; ``constants`` are arrays by name."""
    for i, node in enumerate(nodes):
        node.name = f"{node.op_type}_{i}"
    graph = helper.make_graph(
        nodes,
        "case",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def save(model: onnx.ModelProto, folder: Path) -> Path:
    """Write a graph."""
    path = folder / "case.onnx"
    onnx.save(model, path)
    return path


def attention(
    *,
    kind: int = FP16,
    mask: int | None = FP16,
    past: bool = False,
    present: bool = False,
    flat: bool = False,
    **attributes: Any,
) -> onnx.ModelProto:
    """Attention of 4 query heads to 2 key-value heads, 16 features, 32 rows in the cache."""
    shapes = [[1, 4, "n", 16], [1, 2, 32, 16], [1, 2, 32, 16]]
    if flat:
        shapes = [[1, "n", 64], [1, 32, 32], [1, 32, 32]]
        attributes |= {"q_num_heads": 4, "kv_num_heads": 2}
    inputs: list[Value] = [(x, kind, shape) for x, shape in zip("qkv", shapes, strict=True)]
    names = ["q", "k", "v"]
    if mask is not None:
        inputs.append(("mask", mask, [1, 1, "n", 32]))
        names.append("mask")
    if past:
        inputs += [(name, kind, [1, 2, "p", 16]) for name in ("past_key", "past_value")]
        names += ["past_key", "past_value"]
    outputs: list[Value] = [("y", kind, shapes[0])]
    if present:
        outputs += [(name, kind, [1, 2, "t", 16]) for name in ("present_key", "present_value")]
    node = helper.make_node("Attention", names, [name for name, *_ in outputs], **attributes)
    return make_model([node], inputs, outputs)


def cache(
    *,
    rank: int = 4,
    axis: int = -2,
    mode: str = "linear",
    length: int | str = 32,
    ends: bool = True,
) -> onnx.ModelProto:
    """Write rows into a cache with TensorScatter."""
    first = [1, 2, 2][: rank - 2]
    past, new = [*first, length, 16], [*first, "n", 16]
    if axis != -2:
        past, new = [*first, 16, length], [*first, 16, "n"]
    scatter = helper.make_node(
        "TensorScatter", ["past", "new", "index"], ["present"], axis=axis, mode=mode
    )
    inputs: list[Value] = [("past", FP16, past), ("new", FP16, new), ("index", INT64, [1])]
    if ends:
        return make_model([scatter], inputs, [("present", FP16, past)])
    before = helper.make_node("Add", ["past", "past"], ["twice"])
    scatter.input[0] = "twice"
    after = helper.make_node("Add", ["present", "present"], ["sum"])
    return make_model([before, scatter, after], inputs, [("sum", FP16, past)])


def product(
    kind: Any = ml_dtypes.int4,
    *,
    block: int = 64,
    zero_point: int | None = None,
    scale: float = 0.5,
    computed_scale: bool = False,
    opset: int = 21,
    features: int = 128,
    out: int = 32,
) -> onnx.ModelProto:
    """A product with a weight ``[features, out]`` of blocks."""
    codes = np.ones((features, out), dtype=kind)
    scales = np.full((features // block, out), scale, dtype=np.float16)
    constants: dict[str, Any] = {"codes": codes, "scales": scales}
    inputs: list[Value] = [("x", FP16, [1, features])]
    names = ["codes", "scales"]
    if computed_scale:
        del constants["scales"]
        inputs.append(("scales", FP16, list(scales.shape)))
    if zero_point is not None:
        constants["zero"] = np.full(scales.shape, zero_point, dtype=kind)
        names.append("zero")
    nodes = [
        helper.make_node("DequantizeLinear", names, ["weight"], axis=0, block_size=block),
        helper.make_node("MatMul", ["x", "weight"], ["y"]),
    ]
    return make_model(nodes, inputs, [("y", FP16, [1, out])], constants, opset=opset)


def whole_scale_product(kind: Any, *, opset: int = 21) -> onnx.ModelProto:
    """A product with a weight that has a single scale."""
    constants = {"codes": np.ones((64, 32), dtype=kind), "scale": np.float16(0.5)}
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "scale"], ["weight"]),
        helper.make_node("MatMul", ["x", "weight"], ["y"]),
    ]
    return make_model(
        nodes, [("x", FP16, [1, 64])], [("y", FP16, [1, 32])], constants, opset=opset
    )


def look_up(table: Any, *, opset: int = 20) -> onnx.ModelProto:
    """Gather rows of a table."""
    node = helper.make_node("Gather", ["table", "ids"], ["rows"])
    kind = helper.np_dtype_to_tensor_dtype(table.dtype)
    outputs: list[Value] = [("rows", kind, ["n", table.shape[1]])]
    return make_model([node], [("ids", INT64, ["n"])], outputs, {"table": table}, opset=opset)


def simple(
    operator: str,
    *,
    kind: int = FP16,
    opset: int = 20,
    domain: str = "",
    count: int = 1,
    **attributes: Any,
) -> onnx.ModelProto:
    """One operator whose inputs and output are of the same type and shape."""
    names = ["a", "b"][:count]
    node = helper.make_node(operator, names, ["y"], domain=domain, **attributes)
    return make_model(
        [node],
        [(name, kind, [1, 8]) for name in names],
        [("y", kind, [1, 8])],
        opset=opset,
        domains=[domain] if domain else [],
    )


def scatter_nd(**attributes: Any) -> onnx.ModelProto:
    """Write rows with ScatterND."""
    node = helper.make_node("ScatterND", ["data", "rows", "new"], ["y"], **attributes)
    inputs: list[Value] = [("data", FP16, [32, 8]), ("rows", INT64, ["n", 1])]
    return make_model([node], [*inputs, ("new", FP16, ["n", 8])], [("y", FP16, [32, 8])], opset=20)


def reduce_mean(*, computed: bool) -> onnx.ModelProto:
    """Take the mean as ReduceMean over axes that are a constant or computed."""
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=1)
    inputs: list[Value] = [("x", FP32, [4, 8])]
    axes = {} if computed else {"axes": np.array([1])}
    if computed:
        inputs.append(("axes", INT64, [1]))
    return make_model([node], inputs, [("y", FP32, [4, 1])], axes, opset=20)
