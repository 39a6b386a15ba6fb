"""The kernels of kernels/ as TensorRT plugins that were compiled ahead of time (10.9 and later).

TensorRT is given PTX and how it is launched; both become part of the engine, so a computer that
only serves an engine needs neither this module nor Triton. The calls are those of NVIDIA's
``tensorrt.plugin`` («quickly deployable plugins»); not run on hardware.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import hashlib
import importlib
import inspect
from pathlib import Path
import types
from typing import Any, TypeAlias

import yaml

from quant_llm_ros.errors import EngineError

RECORD = "plugins.yaml"
FORMAT_VERSION = 1
OLDEST = (10, 9)

Dimensions: TypeAlias = Sequence[Any]
"""Sizes of a tensor: whole numbers or TensorRT's expressions for them."""


@dataclasses.dataclass(frozen=True)
class Launch:
    """How a kernel is started.

    Attributes:
        grid: Programs along x and y.
        scalars: What it gets between its inputs and its outputs.
        outputs: Sizes of each output.
    """

    grid: tuple[Any, Any]
    scalars: tuple[Any, ...]
    outputs: tuple[Dimensions, ...]


@dataclasses.dataclass(frozen=True)
class Definition:
    """A plugin of one kernel.

    Attributes:
        inputs: Type of each input, by its name.
        outputs: Type of each output.
        launch: Gives the launch by the sizes of the inputs, the constants that the kernel was
            compiled with, and a function that divides and rounds up.
        scalars: How many whole numbers the kernel takes.
    """

    inputs: Mapping[str, str]
    outputs: tuple[str, ...]
    launch: Callable[[Sequence[Dimensions], Mapping[str, int], Callable[[Any, int], Any]], Launch]
    scalars: int

    @property
    def pointers(self) -> tuple[bool, ...]:
        """Which of the kernel's parameters, in TensorRT's order, are addresses."""
        return (True,) * len(self.inputs) + (False,) * self.scalars + (True,) * len(self.outputs)


def _product(
    shapes: Sequence[Dimensions],
    constants: Mapping[str, int],
    ceil_div: Callable[[Any, int], Any],
) -> Launch:
    """Multiply every token with a matrix; the codes' words of 32 bits hold 8 of them."""
    x, packed = shapes[0], shapes[1]
    tokens = 1
    for size in x[:-1]:
        tokens = size * tokens
    n, k = packed[0], x[-1]
    return Launch((ceil_div(n, constants["BLOCK_N"]), tokens), (n, k), ((*x[:-1], n),))


def _parts(
    shapes: Sequence[Dimensions],
    constants: Mapping[str, int],
    ceil_div: Callable[[Any, int], Any],
) -> Launch:
    """Find the best token of each part of the vocabulary."""
    vocab = shapes[0][0]
    parts = ceil_div(vocab, constants["BLOCK"])
    return Launch((parts, 1), (vocab,), ((parts,), (parts,)))


def _best(
    shapes: Sequence[Dimensions],
    constants: Mapping[str, int],
    ceil_div: Callable[[Any, int], Any],
) -> Launch:
    """Find the best of the parts."""
    return Launch((1, 1), (shapes[0][0],), ((1,), (1,)))


# Codes and bit masks are words of 32 bits, because TensorRT has constants of that type everywhere;
# a kernel only sees an address.
_HALVES = {"x": "FP16", "packed": "INT32"}
DEFINITIONS: Mapping[str, Definition] = {
    "gemv_w4a16": Definition({**_HALVES, "scales": "FP16"}, ("FP16",), _product, 2),
    "gemv_codebook": Definition({**_HALVES, "books": "FP16"}, ("FP16",), _product, 2),
    "masked_argmax_parts": Definition(
        {"logits": "FP32", "mask": "INT32"}, ("FP32", "INT32"), _parts, 1
    ),
    "masked_argmax_best": Definition(
        {"values": "FP32", "tokens": "INT32"}, ("FP32", "INT32"), _best, 1
    ),
}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A compiled kernel.

    Attributes:
        ptx: The program.
        threads: Threads of a program.
        shared_bytes: Shared memory of a program.
        constants: What it was compiled with.
    """

    ptx: str
    threads: int
    shared_bytes: int
    constants: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Plugins:
    """All kernels, compiled for one GPU.

    Attributes:
        kernels: By name, for each of :data:`DEFINITIONS`.
        digest: Hash of all that becomes part of an engine.
    """

    kernels: Mapping[str, Kernel]
    digest: str

    @property
    def namespace(self) -> str:
        """The set's name in TensorRT: a graph that names it cannot get other kernels."""
        return f"quant_llm_{self.digest[:12]}"

    @classmethod
    def load(cls, folder: Path, sm: int) -> Plugins:
        """Read what ``kernels/compile.py`` has written.

        Args:
            folder: Its output.
            sm: The GPU's compute capability, such as 87.

        Raises:
            EngineError: The folder is not such an output, is damaged, or lacks this GPU.
        """
        again = "run python kernels/compile.py --output FOLDER and give that folder"
        record = folder / RECORD
        try:
            content = record.read_bytes()
            fields = yaml.safe_load(content)
            if fields["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format_version {fields['format_version']}")
            entries = fields["kernels"]
            chips = sorted({int(entry["sm"]) for entry in entries})
            mine = {str(entry["name"]): entry for entry in entries if int(entry["sm"]) == sm}
            if not mine:
                known = ", ".join(f"SM{chip}" for chip in chips)
                raise EngineError(
                    f"{record} has kernels for {known}, none for SM{sm}; run python "
                    f"kernels/compile.py --sm {sm} --output FOLDER and give that folder"
                )
            kernels = {name: _kernel(folder, name, mine[name]) for name in DEFINITIONS}
        except FileNotFoundError as error:
            raise EngineError(f"{error.filename} does not exist; {again}") from error
        except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise EngineError(f"{record} cannot be used ({reason}); {again}") from error
        digest = hashlib.sha256(repr(sorted(kernels.items())).encode()).hexdigest()
        return cls(kernels, digest)


def _kernel(folder: Path, name: str, entry: Mapping[str, Any]) -> Kernel:
    """Read a kernel, and check that it is what was written and takes what TensorRT passes.

    Raises:
        ValueError: It is not.
    """
    content = (folder / str(entry["file"])).read_bytes()
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise ValueError(f"{entry['file']} is not the file that was written")
    if tuple(bool(one) for one in entry["pointers"]) != DEFINITIONS[name].pointers:
        raise ValueError(f"{name} takes other parameters than this program passes")
    constants = {str(key): int(value) for key, value in entry["constants"].items()}
    return Kernel(content.decode(), int(entry["threads"]), int(entry["shared_bytes"]), constants)


def plugin_module(name: str, version: str) -> Any:
    """Import ``tensorrt.plugin``.

    Args:
        name: The module of TensorRT that is in use.
        version: Its version.

    Raises:
        EngineError: This TensorRT has no plugins of compiled kernels.
    """
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if name == "tensorrt" and numbers >= OLDEST:
        try:
            module = importlib.import_module("tensorrt.plugin")
            if hasattr(module, "aot_impl"):
                return module
        except ImportError:
            pass
    raise EngineError(
        f"{name} {version} has no plugins of compiled kernels (tensorrt.plugin with aot_impl, "
        f"TensorRT {OLDEST[0]}.{OLDEST[1]} or newer); leave --plugins out"
    )


def register(trt: Any, module: Any, plugins: Plugins) -> None:
    """Let TensorRT know the plugins, under their namespace.

    Args:
        trt: The imported module.
        module: Its ``plugin`` module.
        plugins: May have been registered before.
    """
    if hasattr(module.op, plugins.namespace):
        return
    for kernel, definition in DEFINITIONS.items():
        identity = f"{plugins.namespace}::{kernel}"
        _define(trt, module, identity, definition, plugins.kernels[kernel])


def _define(trt: Any, module: Any, identity: str, definition: Definition, kernel: Kernel) -> None:
    """Register one plugin: its outputs, its types, and its kernel.

    TensorRT looks at the names and the annotations of the functions, which are made here so.
    """
    name = identity.rpartition(":")[2]
    desc = module.TensorDesc
    inputs = dict.fromkeys(definition.inputs, desc)
    kinds = {"FP16": trt.DataType.HALF, "FP32": trt.DataType.FLOAT, "INT32": trt.DataType.INT32}

    def launch(tensors: Sequence[Any]) -> Launch:
        shapes = [list(tensor.shape_expr) for tensor in tensors[: len(inputs)]]
        return definition.launch(shapes, kernel.constants, module.cdiv)

    def describe(*tensors: Any) -> Any:
        sizes = launch(tensors).outputs
        return tuple(
            module.from_shape_expr(tuple(size), kinds[kind])
            for size, kind in zip(sizes, definition.outputs, strict=True)
        )

    def formats(*tensors: Any) -> Any:
        all_kinds = ",".join([*definition.inputs.values(), *definition.outputs])
        return [module.AutoTuneCombination(all_kinds, "LINEAR")]

    def implement(*tensors: Any) -> Any:
        started = launch(tensors)
        parameters = module.KernelLaunchParams()
        parameters.grid_x, parameters.grid_y = started.grid
        parameters.block_x = kernel.threads
        parameters.shared_mem = kernel.shared_bytes
        scalars = module.SymIntExprs(len(started.scalars))
        for i, value in enumerate(started.scalars):
            scalars[i] = module.SymInt32(value)
        return name, kernel.ptx, parameters, scalars

    # Types of what is imported when it is known: no annotations to mypy.
    returned = types.GenericAlias(tuple, (desc,) * len(definition.outputs))
    combinations = types.GenericAlias(list, (module.AutoTuneCombination,))
    parts = (str, str, module.KernelLaunchParams, module.SymIntExprs)
    compiled = types.GenericAlias(tuple, parts)
    more = {"outputs": types.GenericAlias(tuple, (desc,))}
    module.register(identity)(_typed(describe, inputs, returned))
    module.autotune(identity)(_typed(formats, {**inputs, **more}, combinations))
    module.aot_impl(identity)(_typed(implement, {**inputs, **more, "tactic": int}, compiled))


def _typed(
    function: Callable[..., Any], parameters: Mapping[str, Any], returned: Any
) -> Callable[..., Any]:
    """Give a function the names and types by which TensorRT calls it."""
    either = inspect.Parameter.POSITIONAL_OR_KEYWORD
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, either, annotation=kind) for name, kind in parameters.items()],
        return_annotation=returned,
    )
    return function
