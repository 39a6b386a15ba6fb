"""Try the plugins' definitions in NVIDIA's own ``tensorrt.plugin``, without a GPU.

    pip download --no-deps tensorrt_cu13_bindings==10.16.1.11
    python kernels/compile.py --output FOLDER
    python tools/tensorrt_plugins.py --kernels FOLDER tensorrt_cu13_bindings-*.whl

That part of TensorRT is written in Python and lies in the wheels of the bindings; the libraries
under it are not needed (see ``tensorrt_signatures.py``). TensorRT's registry and its expressions
for sizes are pretended here, everything between them and a definition is real: it is registered,
made as a plugin of a compiled kernel, and asked for types, sizes, layouts, launch and kernel, as a
build asks.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
import importlib
import math
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import types
from typing import Any
import zipfile

from quant_llm_ros.engine import tensorrt_plugins
from quant_llm_ros.engine.tensorrt_plugins import DEFINITIONS, Plugins

# Sizes of inputs: those of passes over one token and over many.
SHAPES: Mapping[str, Sequence[Sequence[tuple[int, ...]]]] = {
    "gemv_w4a16": [[(1, 1, 576), (1536, 72), (1536, 9)], [(1, 128, 576), (1, 72), (1, 9)]],
    "gemv_codebook": [[(1, 576), (1536, 72), (96, 16)]],
    "masked_argmax_parts": [[(49152,), (1536,)]],
    "masked_argmax_best": [[(48,), (48,)]],
}


class Number:
    """Stands for ``IDimensionExpr``: a size, or what was computed from sizes."""

    def __init__(self, value: int) -> None:
        """Wrap a number."""
        self.value = value

    def is_constant(self) -> bool:
        """Whether it is known while an engine is built."""
        return True

    def get_constant_value(self) -> int:
        """Give the number."""
        return self.value


class Symbol:
    """Stands for ``ISymExpr``: whatever is set is kept."""

    expr: Number


class Registry:
    """Stands for the registry of plugins."""

    def __init__(self) -> None:
        """Begin empty."""
        self.creators: dict[tuple[str, str], Any] = {}

    def register_creator(self, creator: Any, namespace: str) -> None:
        """Keep the creator of a plugin."""
        self.creators[creator.name, namespace] = creator

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        """Find it again."""
        return self.creators.get((name, namespace))


class Builder:
    """Stands for ``IExprBuilder``."""

    def __init__(self, trt: Any) -> None:
        """Know the operations."""
        kinds = trt.DimensionOperation
        self._operations: dict[Any, Callable[[int, int], int]] = {
            kinds.PROD: lambda a, b: a * b,
            kinds.SUM: lambda a, b: a + b,
            kinds.CEIL_DIV: lambda a, b: math.ceil(a / b),
        }

    def constant(self, value: int) -> Number:
        """Make a number."""
        return Number(value)

    def operation(self, kind: Any, a: Number, b: Number) -> Number:
        """Compute."""
        return Number(self._operations[kind](a.value, b.value))


class Numbers(dict[int, Any]):
    """Stands for ``ISymExprs``: the whole numbers of a kernel."""

    nbSymExprs = 0


def pretend(trt: Any) -> Registry:
    """Put the stand-ins into the bindings, before their plugin module is imported."""
    registry = Registry()
    trt.IDimensionExpr, trt.ISymExpr = Number, Symbol
    trt.DimsExprs = lambda length: [None] * length
    trt.DynamicPluginTensorDesc = types.SimpleNamespace
    trt.get_plugin_registry = lambda: registry
    return registry


def described(trt: Any, shape: Sequence[int], kind: Any) -> Any:
    """Describe a tensor as TensorRT does."""
    inner = types.SimpleNamespace(
        dims=tuple(shape), type=kind, format=trt.TensorFormat.LINEAR, scale=1.0
    )
    return types.SimpleNamespace(desc=inner, opt=inner.dims, min=inner.dims, max=inner.dims)


def ask(trt: Any, plugin: Any, name: str, shapes: Sequence[tuple[int, ...]], expected: Any) -> str:
    """Ask a plugin what a build asks; return what differs from what is expected."""
    definition, builder = DEFINITIONS[name], Builder(trt)
    kinds = {"FP16": trt.DataType.HALF, "FP32": trt.DataType.FLOAT, "INT32": trt.DataType.INT32}
    given = [kinds[kind] for kind in definition.inputs.values()]
    made = [kinds[kind] for kind in definition.outputs]
    if plugin.get_output_data_types(given, [len(shape) for shape in shapes]) != made:
        return f"types are {plugin.output_types}"
    sizes = plugin.get_output_shapes([[Number(one) for one in s] for s in shapes], [], builder)
    outputs = [tuple(one.value for one in size) for size in sizes]
    if outputs != [tuple(one) for one in expected.outputs]:
        return f"outputs are {outputs}"
    tensors = [
        described(trt, shape, kind)
        for shape, kind in zip([*shapes, *outputs], [*given, *made], strict=True)
    ]
    formats = plugin.get_supported_format_combinations(tensors, len(shapes))
    if [one.type for one in formats] != [*given, *made]:
        return "formats are others"
    plugin.configure_plugin(tensors[: len(shapes)], tensors[len(shapes) :])
    if plugin.get_valid_tactics():
        return "it has tactics"
    plugin.set_tactic(0)
    launch, scalars = types.SimpleNamespace(), Numbers()
    plugin.get_launch_params(None, tensors, len(shapes), launch, scalars, builder)
    got = {axis: value.expr.value for axis, value in vars(launch).items()}
    grid = (got["grid_x"], got["grid_y"], got["grid_z"])
    if grid != (*expected.grid, 1) or (got["block_y"], got["block_z"]) != (1, 1):
        return f"the launch is {got}"
    values = tuple(scalars[i].expr.value for i in range(scalars.nbSymExprs))
    if values != expected.scalars:
        return f"the whole numbers are {values}"
    inner = [one.desc for one in tensors]
    kernel, ptx = plugin.get_kernel(inner[: len(shapes)], inner[len(shapes) :])
    if kernel != name or f".entry {name}(".encode() not in ptx:
        return f"the kernel is {kernel}"
    print(f"{name}: {list(shapes)} -> {outputs}, {got}, numbers {values}, PTX {len(ptx)} bytes")
    return ""


def inside(folder: Path) -> int:
    """Register everything and ask; in a process that finds the bindings and the libraries."""
    import tensorrt_bindings as trt  # type: ignore[import-not-found]

    sys.modules["tensorrt"] = trt
    registry = pretend(trt)
    import tensorrt_bindings.plugin as module  # type: ignore[import-not-found]

    plugins = Plugins.load(folder, 87)
    tensorrt_plugins.register(trt, module, plugins)
    problems = []
    for name, cases in SHAPES.items():
        creator = registry.creators[name, plugins.namespace]
        for shapes in cases:
            request = trt.QuickPluginCreationRequest.STRICT_AOT
            phase, none = trt.TensorRTPhase.BUILD, trt.PluginFieldCollection([])
            plugin = creator.create_plugin(name, plugins.namespace, none, phase, request)
            constants = plugins.kernels[name].constants
            expected = DEFINITIONS[name].launch(shapes, constants, lambda a, b: -(-a // b))
            problem = ask(trt, plugin, name, shapes, expected)
            problems += [f"{name} {list(shapes)}: {problem}"] if problem else []
    print(f"TensorRT {trt.__version__}: {'; '.join(problems) or 'all as expected'}")
    return 1 if problems else 0


def main() -> int:
    """Try the bindings of some wheels.

    Returns:
        Exit status: 1 where a definition is not what was expected.
    """
    parser = argparse.ArgumentParser(description="Try the plugins in TensorRT's own Python.")
    parser.add_argument("--kernels", type=Path, required=True, help="output of kernels/compile.py")
    parser.add_argument("wheel", nargs="*", type=Path)
    arguments = parser.parse_args()
    if not arguments.wheel:
        return inside(arguments.kernels)
    status = 0
    for wheel in arguments.wheel:
        with tempfile.TemporaryDirectory() as name:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(name)
            major = wheel.name.split("-")[1].split(".")[0]
            importlib.import_module("tensorrt_signatures").make_libraries(Path(name), major)
            paths = [name, os.environ.get("PYTHONPATH", "")]
            status |= subprocess.run(
                [sys.executable, __file__, "--kernels", arguments.kernels],
                env={
                    **os.environ,
                    "LD_LIBRARY_PATH": name,
                    "PYTHONPATH": os.pathsep.join(one for one in paths if one),
                },
                check=False,
            ).returncode
    return status


if __name__ == "__main__":
    sys.exit(main())
