"""Checks an ONNX graph against what a target's runtime takes.

The rules are data: ``config/targets/<target>.yaml`` gives each a name, one of the checks below
with its settings, what to do about it and where it is from. TensorRT's parser and builder say
much less, and only on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import numpy_helper
import yaml

from quant_llm_ros.errors import EngineError
from quant_llm_ros.resources import share_path


@dataclasses.dataclass(frozen=True)
class Finding:
    """A rule that a graph breaks.

    Attributes:
        rule: Name of the rule.
        node: Name of the node, of the value, or ``graph``.
        operator: The node's operator, or empty.
        message: What is wrong.
        remedy: What to do.
        source: Where the rule is from.
    """

    rule: str
    node: str
    operator: str
    message: str
    remedy: str
    source: str

    def __str__(self) -> str:
        """One line for people."""
        where = f"{self.node} ({self.operator})" if self.operator else self.node
        return f"{where}: {self.message} [{self.rule}]; {self.remedy}"


def targets() -> list[str]:
    """Names of the targets that have rules."""
    return sorted(path.stem for path in share_path("config/targets").glob("*.yaml"))


def rules(target: str) -> list[Mapping[str, Any]]:
    """Read the rules of a target.

    Raises:
        EngineError: There are none.
    """
    if target not in targets():
        raise EngineError(f"unknown target {target!r}; known: {', '.join(targets())}")
    path = share_path(f"config/targets/{target}.yaml")
    loaded: list[Mapping[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))["rules"]
    return loaded


def lint(path: Path, target: str, *, chip: int | None = None) -> list[Finding]:
    """Check a graph.

    Args:
        path: The ``.onnx`` file, its weights beside it.
        target: Name of the target.
        chip: Compute capability of the GPU times ten, for example 87; None: any.

    Returns:
        The rules that it breaks, in the order of the rules.

    Raises:
        EngineError: The file cannot be read, or the target is unknown.
    """
    known = rules(target)
    graph = _Graph(path, chip)
    return [
        Finding(
            rule=rule["rule"],
            node=where if isinstance(where, str) else where.name or where.output[0],
            operator="" if isinstance(where, str) else where.op_type,
            message=message,
            remedy=rule["remedy"],
            source=rule["source"],
        )
        for rule in known
        for where, message in CHECKS[rule["check"]](graph, rule)
    ]


class _Graph:
    """An ONNX graph with the types and shapes of all its values."""

    def __init__(self, path: Path, chip: int | None) -> None:
        try:
            model = onnx.load(path, load_external_data=False)
            inferred = onnx.shape_inference.infer_shapes(model)
        except FileNotFoundError:
            raise EngineError(f"{path} does not exist") from None
        except Exception as error:  # those of protobuf are no part of onnx's interface
            raise EngineError(f"{path} cannot be read as ONNX: {error}") from error
        self.chip = chip
        self.folder = path.parent
        self.nodes = list(model.graph.node)
        self.opset = {entry.domain or "": entry.version for entry in model.opset_import}
        self.inputs = {value.name: value for value in model.graph.input}
        self.outputs = {value.name for value in model.graph.output}
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    if attribute.name == "value":
                        self.constants[node.output[0]] = attribute.t
        self.types: dict[str, str] = {}
        self.shapes: dict[str, list[int | None]] = {}
        graph = inferred.graph
        for value in (*graph.input, *graph.value_info, *graph.output):
            tensor = value.type.tensor_type
            if tensor.elem_type:
                self.types[value.name] = _type_name(tensor.elem_type)
            if tensor.HasField("shape"):
                self.shapes[value.name] = [
                    size.dim_value if size.HasField("dim_value") else None
                    for size in tensor.shape.dim
                ]
        for name, tensor in self.constants.items():
            self.types[name] = _type_name(tensor.data_type)
            self.shapes[name] = list(tensor.dims)

    def those(self, rule: Mapping[str, Any]) -> Iterator[onnx.NodeProto]:
        """Nodes of the rule's operator."""
        return (
            node
            for node in self.nodes
            if node.op_type == rule["operator"] and node.domain in ("", "ai.onnx")
        )

    def named_inputs(self, node: onnx.NodeProto, names: list[str]) -> Iterator[tuple[str, str]]:
        """Inputs of a node that are given: the operator's name for each, and the value's."""
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opset.get("", 1))
        except onnx.defs.SchemaError:
            return
        for parameter, value in zip(schema.inputs, node.input, strict=False):
            if parameter.name in names and value:
                yield parameter.name, value

    def array(self, name: str) -> NDArray[Any]:
        """Values of a constant."""
        try:
            return numpy_helper.to_array(self.constants[name], base_dir=str(self.folder))
        except (OSError, onnx.checker.ValidationError) as error:
            raise EngineError(f"{name}: its values cannot be read: {error}") from error


Broken = Iterator[tuple[onnx.NodeProto | str, str]]
"""Nodes or values that break a rule, and how."""


def _opset(graph: _Graph, rule: Mapping[str, Any]) -> Broken:
    """Version of the standard operators."""
    version = graph.opset.get("", graph.opset.get("ai.onnx", 0))
    most = rule["most"]
    if "int4" in graph.types.values():
        most = rule.get("most_with_int4", most)
    if not rule["least"] <= version <= most:
        yield "graph", f"opset {version} is outside of {rule['least']} to {most}"


def _domain(graph: _Graph, rule: Mapping[str, Any]) -> Broken:
    """Operators are of known domains."""
    for node in graph.nodes:
        if node.domain not in rule["allowed"]:
            yield node, f"is of the domain {node.domain}"


def _operator(graph: _Graph, rule: Mapping[str, Any]) -> Broken:
    """Standard operators are known ones."""
    for node in graph.nodes:
        if node.domain in ("", "ai.onnx") and node.op_type not in rule["allowed"]:
            yield node, "the runtime has no such operator"


def _value_type(graph: _Graph, rule: Mapping[str, Any]) -> Broken:
    """All values are of known types."""
    for name, kind in graph.types.items():
        if kind not in rule["allowed"]:
            yield name, f"is of type {kind}"


def _input_type(graph: _Graph, rule: Mapping[str, Any]) -> Broken:
    """Inputs of an operator are of known types."""
    for node in graph.those(rule):
        for name, value in graph.named_inputs(node, rule["inputs"]):
            kind = graph.types.get(value)
            if kind is not None and kind not in rule["allowed"]:
                yield node, f"{name} is {kind}, accepted: {', '.join(rule['allowed'])}"


def _no_input(graph: _Graph, rule: Mapping[str, Any]) -> Broken:
    """An operator goes without some of its inputs."""
    for node in graph.those(rule):
        for name, _ in graph.named_inputs(node, rule["inputs"]):
            yield node, f"has the input {name}"


def _outputs(graph: _Graph, rule: Mapping[str, Any]) -> Broken:
    """An operator has few outputs."""
    for node in graph.those(rule):
        used = [name for name in node.output if name]
        if len(used) > rule["most"]:
            yield node, f"has {len(used)} outputs, accepted: {rule['most']}"


def _rank(graph: _Graph, rule: Mapping[str, Any]) -> Broken:
    """Inputs of an operator have so many dimensions."""
    for node in graph.those(rule):
        for name, value in graph.named_inputs(node, rule["inputs"]):
            shape = graph.shapes.get(value)
            if shape is not None and len(shape) != rule["rank"]:
                yield node, f"{name} has {len(shape)} dimensions, accepted: {rule['rank']}"


def _no_attribute(graph: _Graph, rule: Mapping[str, Any]) -> Broken:
    """An operator goes without some of its attributes."""
    for node in graph.those(rule):
        for attribute in node.attribute:
            if attribute.name in rule["attributes"]:
                yield node, f"has the attribute {attribute.name}"


def _attribute(graph: _Graph, rule: Mapping[str, Any]) -> Broken:
    """An attribute, where it is given, has a known value."""
    for node in graph.those(rule):
        for attribute in node.attribute:
            if attribute.name == rule["attribute"]:
                value = onnx.helper.get_attribute_value(attribute)
                value = value.decode() if isinstance(value, bytes) else value
                if value not in rule["allowed"]:
                    yield node, f"{attribute.name} is {value}, accepted: {rule['allowed']}"


def _cache_ends(graph: _Graph, rule: Mapping[str, Any]) -> Broken:
    """A cache comes in and goes out of the graph, and its size is fixed."""
    for node in graph.those(rule):
        cache = node.input[0]
        if cache not in graph.inputs:
            yield node, f"the cache {cache} is no graph input"
        if node.output[0] not in graph.outputs:
            yield node, f"the updated cache {node.output[0]} is no graph output"
        if None in graph.shapes.get(cache, []):
            yield node, f"the cache {cache} has a size that changes"


def _zero_point(graph: _Graph, rule: Mapping[str, Any]) -> Broken:
    """The zero point, where it is given, is a constant 0."""
    for node in graph.those(rule):
        for _, value in graph.named_inputs(node, ["x_zero_point"]):
            if value not in graph.constants:
                yield node, f"the zero point {value} is computed"
            elif np.any(graph.array(value).astype(np.float32)):
                yield node, f"the zero point {value} is not 0"


def _block_size(graph: _Graph, rule: Mapping[str, Any]) -> Broken:
    """Blocks that share a scale are of known sizes."""
    for node in graph.those(rule):
        kind = graph.types.get(node.input[0], "")
        size = next((a.i for a in node.attribute if a.name == "block_size"), 0)
        allowed = rule["allowed"].get(kind)
        if size and allowed is not None and size not in allowed:
            accepted = ", ".join(map(str, allowed)) or "none"
            yield node, f"{kind} in blocks of {size}, accepted: {accepted}"


def _constant_input(graph: _Graph, rule: Mapping[str, Any]) -> Broken:
    """Inputs of an operator are constants; for some types also what a node makes of constants."""
    made_by = {node.output[0]: node for node in graph.nodes if node.output}
    for node in graph.those(rule):
        maker_type = rule.get("or_from", {}).get(graph.types.get(node.input[0]))
        for name, value in graph.named_inputs(node, rule["inputs"]):
            maker = made_by.get(value)
            from_constants = (
                maker is not None
                and maker.op_type == maker_type
                and all(given in graph.constants for given in maker.input)
            )
            if value not in graph.constants and not from_constants:
                yield node, f"{name} is computed"


def _positive(graph: _Graph, rule: Mapping[str, Any]) -> Broken:
    """Constant inputs of an operator are above zero."""
    for node in graph.those(rule):
        for name, value in graph.named_inputs(node, rule["inputs"]):
            if value in graph.constants and not (graph.array(value) > 0).all():
                yield node, f"{name} has a value that is not above 0"


def _even_elements(graph: _Graph, rule: Mapping[str, Any]) -> Broken:
    """Constants of half a byte come in pairs."""
    for name, tensor in graph.constants.items():
        if graph.types[name] in rule["types"] and math.prod(tensor.dims) % 2:
            yield name, f"has an odd number of elements, {list(tensor.dims)}"


def _chip(graph: _Graph, rule: Mapping[str, Any]) -> Broken:
    """The GPU has the types, if it is known which one it is."""
    for name, kind in graph.types.items():
        least = rule["least"].get(kind)
        if graph.chip is not None and least is not None and graph.chip < least:
            yield name, f"is {kind}, which SM{graph.chip} lacks; it came with SM{least}"


CHECKS: Mapping[str, Callable[[_Graph, Mapping[str, Any]], Broken]] = {
    "attribute": _attribute,
    "block_size": _block_size,
    "cache_ends": _cache_ends,
    "chip": _chip,
    "constant_input": _constant_input,
    "domain": _domain,
    "even_elements": _even_elements,
    "input_type": _input_type,
    "no_attribute": _no_attribute,
    "no_input": _no_input,
    "operator": _operator,
    "opset": _opset,
    "outputs": _outputs,
    "positive": _positive,
    "rank": _rank,
    "value_type": _value_type,
    "zero_point": _zero_point,
}


def _type_name(kind: int) -> str:
    """Name of an ONNX type as the rules have it, for example ``float16``."""
    name = str(onnx.TensorProto.DataType.Name(kind)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)
