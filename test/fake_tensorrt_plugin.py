"""A pretended ``tensorrt.plugin``, and the plugins' meaning in operators of ONNX.

What TensorRT asks of a definition is asked here too: names and types of its functions, types and
layouts, the launch for real sizes, and a kernel that takes what it is going to be passed. The
sizes are plain numbers; the real ones are expressions, which ``tools/tensorrt_plugins.py`` tries.
"""

from __future__ import annotations

from collections.abc import Callable
import inspect
from pathlib import Path
import re
import types
from typing import Any

from fake_cuda import RuleBroken
from fake_tensorrt_types import DataType
import numpy as np
import onnx
from onnx import helper, TensorProto

NAMES = (
    "AutoTuneCombination.__init__",
    "KernelLaunchParams.__init__",
    "SymInt32.__init__",
    "SymIntExprs.__init__",
    "SymIntExprs.__setitem__",
    "TensorDesc.shape_expr",
    "aot_impl",
    "autotune",
    "cdiv",
    "from_shape_expr",
    "op",
    "register",
)
op = types.SimpleNamespace()
TOKENS = 5  # the size that a pass has while a plugin is looked at
_TYPES = {"FP16": DataType.HALF, "FP32": DataType.FLOAT, "INT32": DataType.INT32}


class UnknownPlugin(Exception):
    """The parser meets an operator that is none of ONNX and no plugin."""


class TensorDesc:  # noqa: D101
    def __init__(self, shape_expr: Any = None, dtype: Any = None) -> None:
        self._shape_expr, self.dtype = shape_expr, dtype

    @property
    def shape_expr(self) -> Any:
        return self._shape_expr


class AutoTuneCombination:  # noqa: D101
    def __init__(self, io_types: str | None = None, layouts: str | None = None) -> None:
        self.io_types, self.layouts = str(io_types).split(","), layouts


class KernelLaunchParams:  # noqa: D101
    def __init__(
        self,
        grid_x: Any = 1,
        grid_y: Any = 1,
        grid_z: Any = 1,
        block_x: Any = 1,
        block_y: Any = 1,
        block_z: Any = 1,
        shared_mem: Any = 0,
    ) -> None:
        self.grid_x, self.grid_y, self.block_x, self.shared_mem = (
            grid_x,
            grid_y,
            block_x,
            shared_mem,
        )


class SymInt32:  # noqa: D101
    def __init__(self, value: int | None = None) -> None:
        self.value = value


class SymIntExprs:  # noqa: D101
    def __init__(self, length: int) -> None:
        self.values: list[Any] = [None] * length

    def __setitem__(self, index: int, value: Any) -> None:
        self.values[index] = value


def cdiv(first: int, second: int) -> int:
    return -(-first // second)


def from_shape_expr(shape_expr: Any, dtype: Any) -> TensorDesc:
    return TensorDesc(shape_expr, dtype)


def register(plugin_id: str, lazy_register: bool = False) -> Callable[..., Any]:
    def decorator(function: Callable[..., Any]) -> Callable[..., Any]:
        namespace, name = plugin_id.split("::")
        if "." in namespace or "." in name:
            raise RuleBroken(f"{plugin_id} has a dot")
        if not hasattr(op, namespace):
            setattr(op, namespace, types.SimpleNamespace())
        if hasattr(getattr(op, namespace), name):
            raise RuleBroken(f"{plugin_id} is defined twice")
        signature = inspect.signature(function)
        if any(one.annotation is not TensorDesc for one in signature.parameters.values()):
            raise RuleBroken(f"{plugin_id}: every parameter must be annotated as TensorDesc")
        setattr(getattr(op, namespace), name, types.SimpleNamespace(describe=function))
        return function

    return decorator


def autotune(plugin_id: str) -> Callable[..., Any]:
    return _second("autotune", plugin_id, ["outputs"])


def aot_impl(plugin_id: str) -> Callable[..., Any]:
    return _second("implement", plugin_id, ["outputs", "tactic"])


def _second(role: str, plugin_id: str, more: list[str]) -> Callable[..., Any]:
    namespace, name = plugin_id.split("::")
    defined = getattr(getattr(op, namespace), name)

    def decorator(function: Callable[..., Any]) -> Callable[..., Any]:
        first = list(inspect.signature(defined.describe).parameters)
        if list(inspect.signature(function).parameters) != [*first, *more]:
            raise RuleBroken(f"{plugin_id}: {role} does not take {[*first, *more]}")
        setattr(defined, role, function)
        return function

    return decorator


# --- What a builder does with a plugin -----------------------------------------------------------


def launched(plugin: Any, inputs: list[TensorDesc]) -> tuple[list[TensorDesc], Any, list[int]]:
    """Ask a plugin for its outputs and its launch, and hold them against its kernel.

    Returns:
        The outputs, the launch, and the whole numbers between inputs and outputs.
    """
    outputs = list(plugin.describe(*inputs))
    (formats,) = plugin.autotune(*inputs, outputs)
    kinds = [_TYPES[one.strip()] for one in formats.io_types]
    if kinds != [one.dtype for one in [*inputs, *outputs]] or formats.layouts != "LINEAR":
        raise RuleBroken(f"the plugin takes {formats.io_types}")
    name, ptx, launch, scalars = plugin.implement(*inputs, outputs, 0)
    values = [one.value for one in scalars.values]
    entry = re.search(rf"\.entry {name}\((.*?)\)", ptx, re.DOTALL)
    declared = re.findall(r"\.param \.(u\d+)", entry[1]) if entry else []
    passed = ["u64"] * len(inputs) + ["u32"] * len(values) + ["u64"] * len(outputs)
    if declared != passed:
        raise RuleBroken(f"{name} takes {declared} and would be passed {passed}")
    if f".reqntid {launch.block_x}\n" not in ptx:
        raise RuleBroken(f"{name} is not for {launch.block_x} threads")
    return outputs, launch, values


def with_functions(model: str) -> str:
    """Give a graph that ONNX Runtime can run: what is a plugin is a function of ONNX's operators.

    Raises:
        UnknownPlugin: There is no such plugin; with what the parser says.
    """
    graph = onnx.load(model, load_external_data=False)
    nodes = [node for node in graph.graph.node if node.domain]
    if not nodes:
        return model
    shapes = {one.name: list(one.dims) for one in graph.graph.initializer}
    for node in nodes:
        attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        namespace = attributes["plugin_namespace"].decode()
        plugin = getattr(getattr(op, namespace, None), node.op_type, None)
        if plugin is None or attributes["plugin_version"] != b"1" or attributes["aot"] != 1:
            raise UnknownPlugin(
                "Plugin not found, are the plugin name, version, and namespace correct?",
                node.op_type,
                node.name,
            )
        words, scales = (shapes[name] for name in node.input[1:])
        x = TensorDesc((1, TOKENS, words[1] * 8), DataType.HALF)
        packed = TensorDesc(tuple(words), DataType.INT32)
        (y,), _, _ = launched(plugin, [x, packed, TensorDesc(tuple(scales), DataType.HALF)])
        if tuple(y.shape_expr) != (1, TOKENS, words[0]):
            raise RuleBroken(f"{node.name} gives {y.shape_expr}")
    for domain in {node.domain for node in nodes}:
        graph.functions.append(product_function(domain))
    path = Path(model).with_name(f"{nodes[0].domain}.onnx")
    onnx.save(graph, path)
    return str(path)


def product_function(domain: str) -> onnx.FunctionProto:
    """The W4A16 product by its definition, on weights as the kernel reads them."""

    def ints(name: str, values: Any, kind: int = TensorProto.INT64) -> onnx.NodeProto:
        array = np.array(values, helper.tensor_dtype_to_np_dtype(kind))
        return helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(array))

    def node(kind: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(kind, inputs.split(), [output], **attributes)

    unsigned = TensorProto.UINT32
    nodes = [
        ints("range", 2**32),
        ints("last", [-1]),
        ints("places", range(0, 32, 4), unsigned),
        ints("fifteen", 15, unsigned),
        ints("eight", 8, unsigned),
        ints("blocks", [-1, 64]),
        ints("column", [-1, 1]),
        node("Cast", "packed", "long", to=TensorProto.INT64),
        node("Mod", "long range", "positive"),
        node("Cast", "positive", "word", to=unsigned),
        node("Unsqueeze", "word last", "words"),
        node("BitShift", "words places", "shifted", direction="RIGHT"),
        node("BitwiseAnd", "shifted fifteen", "nibble"),
        node("BitwiseXor", "nibble eight", "biased"),
        node("Cast", "biased", "from_zero", to=TensorProto.FLOAT),
        node("Cast", "eight", "zero", to=TensorProto.FLOAT),
        node("Sub", "from_zero zero", "codes"),
        node("Reshape", "codes blocks", "by_block"),
        node("Cast", "scales", "wide", to=TensorProto.FLOAT),
        node("Reshape", "wide column", "steps"),
        node("Mul", "by_block steps", "scaled"),
        node("Shape", "packed", "rows", start=0, end=1),
        helper.make_node("Concat", ["rows", "last"], ["shape"], axis=0),
        node("Reshape", "scaled shape", "weight"),
        node("Transpose", "weight", "columns", perm=[1, 0]),
        node("Cast", "x", "numbers", to=TensorProto.FLOAT),
        node("MatMul", "numbers columns", "sums"),
        node("Cast", "sums", "y", to=TensorProto.FLOAT16),
    ]
    return helper.make_function(
        domain,
        "gemv_w4a16",
        ["x", "packed", "scales"],
        ["y"],
        nodes,
        [helper.make_opsetid("", 24)],
        ["plugin_namespace", "plugin_version", "aot"],
    )
