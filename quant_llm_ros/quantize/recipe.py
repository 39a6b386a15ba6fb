"""Recipes: what to quantize and how, as a YAML file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
import fnmatch
from pathlib import Path
import types
from typing import Any, TypeVar

import yaml

from quant_llm_ros.engine.bundle import PROMPT_EXAMPLES
from quant_llm_ros.errors import RecipeError
from quant_llm_ros.quantize.calibration import Activations, CalibrationSettings
from quant_llm_ros.quantize.checkpoint import Checkpoint, find_in_package, open_checkpoint
from quant_llm_ros.quantize.methods import make_quantizer
from quant_llm_ros.quantize.names import nearest
from quant_llm_ros.quantize.tensors import BoundQuantizer, Quantizer

TARGETS = ("ort", "tensorrt", "tensorrt-jp6")
KEEP = "none"  # the method that leaves a weight in FP32

_KINDS: Mapping[type, str] = {
    int: "a whole number",
    str: "a text",
    bool: "true or false",
    dict: "a mapping",
}

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class CheckpointSource:
    """Where a recipe's checkpoint comes from: a file in a package, or a path.

    Attributes:
        package: Distribution that carries the file, or empty.
        file: Path inside the package, or empty.
        path: GGUF file or Hugging Face folder, or None.
        sha256: Hash that it must have, or empty.
        license: SPDX name, used where the checkpoint names none.
    """

    package: str
    file: str
    path: Path | None
    sha256: str
    license: str

    def open(self) -> Checkpoint:
        """Find and open the checkpoint.

        Raises:
            CheckpointError: It is missing, damaged or not supported.
            RecipeError: It has another hash than the recipe says.
        """
        source = ""
        location = self.path
        if location is None:
            location, source = find_in_package(self.package, self.file)
        checkpoint = open_checkpoint(location, source=source, license_name=self.license)
        if self.sha256 and checkpoint.sha256 != self.sha256:
            raise RecipeError(
                f"{location} has sha256 {checkpoint.sha256[:12]}…, the recipe expects "
                f"{self.sha256[:12]}…; install the checkpoint that the recipe names, or change "
                f"checkpoint.sha256"
            )
        return checkpoint


@dataclasses.dataclass(frozen=True)
class LayerRule:
    """Which quantizer some weights get.

    Attributes:
        pattern: Shell-style pattern of weight names, for example ``*.down_proj.weight``.
        quantizer: Theirs, or None to keep them in FP32.
    """

    pattern: str
    quantizer: Quantizer | None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to make a bundle.

    Attributes:
        name: Of the bundle.
        checkpoint: Where the model comes from.
        adapters: Folders of the adapters that are merged before quantization, in this order.
        prompt_examples: When the prompt shows the skills' examples; see
            ``engine.bundle.PROMPT_EXAMPLES``.
        skills_fixed: The model understands only the skills that go into the bundle: a node refuses
            to serve it with others.
        accuracy: Sentences that the finished bundle is evaluated on, or None.
        unquantized: The unquantized model is evaluated on them too.
        rules: The first whose pattern matches a weight's name decides; the last matches all.
        context_length: Most tokens in the cache.
        target: Kind of graph.
        settings: The recipe as it was written.
        file: Where it was read from.
        calibration: Text that the methods which look at inputs are shown.
        activations: How the inputs of layers are rounded, or None.
        correction: Folder of an adapter that was trained on the quantized weights and stays
            beside them, or None.
    """

    name: str
    checkpoint: CheckpointSource
    adapters: tuple[Path, ...]
    prompt_examples: str
    skills_fixed: bool
    accuracy: Path | None
    unquantized: bool
    rules: tuple[LayerRule, ...]
    context_length: int
    target: str
    settings: Mapping[str, Any]
    file: Path
    calibration: CalibrationSettings = dataclasses.field(default_factory=CalibrationSettings)
    activations: Activations | None = None
    correction: Path | None = None

    def quantizer(self, weight: str) -> Quantizer | None:
        """Choose the quantizer of a weight by its Hugging Face name; None keeps it in FP32."""
        quantizer = next(
            rule.quantizer for rule in self.rules if fnmatch.fnmatchcase(weight, rule.pattern)
        )
        if isinstance(quantizer, BoundQuantizer):
            return quantizer.bound(self.file.parent, weight)
        return quantizer

    @property
    def needs_calibration(self) -> bool:
        """Whether some method has to be shown text."""
        static = self.activations is not None and self.activations.method == "static"
        return static or any(
            rule.quantizer is not None and rule.quantizer.needs_calibration for rule in self.rules
        )

    def check_patterns(self, weights: Iterable[str]) -> None:
        """Check that every pattern is of use.

        Args:
            weights: Names of the weights that can be quantized.

        Raises:
            RecipeError: A pattern matches none of them.
        """
        names = list(weights)
        for rule in self.rules:
            if not fnmatch.filter(names, rule.pattern):
                raise RecipeError(
                    f"{self.file}: quantize.layers: {rule.pattern!r} matches no weight"
                    f"{nearest(rule.pattern, names)[:200]}"
                )

    @classmethod
    def load(cls, path: Path | str) -> Recipe:
        """Read a recipe.

        Raises:
            RecipeError: The file is missing or malformed, or names something unknown.
        """
        path = Path(path)
        try:
            settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RecipeError(f"the recipe {path} does not exist") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RecipeError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
        top = _Fields(path, "", settings)
        top.allow(
            "name",
            "checkpoint",
            "adapter",
            "prompt",
            "skills",
            "accuracy",
            "quantize",
            "calibration",
            "correction",
            "context_length",
            "target",
        )
        target = top.get("target", str, "ort")
        if target not in TARGETS:
            raise RecipeError(f"{path}: unknown target {target!r}{nearest(target, TARGETS)}")
        context_length = top.get("context_length", int)
        if context_length < 16:
            raise RecipeError(f"{path}: context_length is {context_length}, expected 16 or more")
        accuracy, unquantized = _accuracy(_Fields(path, "accuracy", top.get("accuracy", dict, {})))
        quantize = _Fields(path, "quantize", top.get("quantize", dict))
        return cls(
            name=top.get("name", str),
            checkpoint=_checkpoint(_Fields(path, "checkpoint", top.get("checkpoint", dict))),
            adapters=_adapters(top),
            prompt_examples=_prompt_examples(
                _Fields(path, "prompt", top.get("prompt", dict, {})),
                "other" if "adapter" in settings else "always",
            ),
            skills_fixed=_skills_fixed(_Fields(path, "skills", top.get("skills", dict, {}))),
            accuracy=accuracy,
            unquantized=unquantized,
            rules=_rules(quantize, target),
            context_length=context_length,
            target=target,
            settings=types.MappingProxyType(settings),
            file=path,
            calibration=_calibration(
                _Fields(path, "calibration", top.get("calibration", dict, {}))
            ),
            activations=_activations(quantize),
            correction=path.parent / top.get("correction", str)
            if "correction" in settings
            else None,
        )


class _Fields:
    """A mapping of the file, with messages that say which."""

    def __init__(self, file: Path, where: str, values: Any) -> None:
        self.file = file
        self.where = f"{file}: {where}" if where else str(file)
        if not isinstance(values, dict):
            raise RecipeError(f"{self.where} is not a mapping")
        self.values = values
        self._prefix = f"{where}." if where else ""

    def allow(self, *known: str) -> None:
        for key in self.values:
            if key not in known:
                raise RecipeError(
                    f"{self.file}: unknown key '{self._prefix}{key}'{nearest(key, known)}"
                )

    def get(self, key: str, kind: type[_T], default: _T | None = None) -> _T:
        value = self.values.get(key, default)
        if value is None:
            raise RecipeError(f"{self.file}: {self._prefix}{key} is missing")
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise RecipeError(
                f"{self.file}: {self._prefix}{key} is {value!r}, expected {_KINDS[kind]}"
            )
        return value


def _checkpoint(fields: _Fields) -> CheckpointSource:
    """Read the ``checkpoint`` part."""
    fields.allow("package", "file", "path", "sha256", "license")
    has_path = "path" in fields.values
    if has_path == ("package" in fields.values) or has_path == ("file" in fields.values):
        raise RecipeError(f"{fields.where} needs either path, or package and file")
    path = None
    if has_path:
        path = Path(fields.get("path", str)).expanduser()
        path = path if path.is_absolute() else fields.file.parent / path
    return CheckpointSource(
        package=fields.get("package", str, ""),
        file=fields.get("file", str, ""),
        path=path,
        sha256=fields.get("sha256", str, "").lower(),
        license=fields.get("license", str, ""),
    )


def _adapters(fields: _Fields) -> tuple[Path, ...]:
    """Read ``adapter``: a folder, or several that were trained one on top of the other."""
    value = fields.values.get("adapter", [])
    names = value if isinstance(value, list) else [value]
    for name in names:
        if not isinstance(name, str) or not name:
            raise RecipeError(f"{fields.file}: adapter is {name!r}, expected a folder or several")
    return tuple(fields.file.parent / name for name in names)


def _prompt_examples(fields: _Fields, default: str) -> str:
    """Read the ``prompt`` part."""
    fields.allow("examples")
    value = fields.get("examples", str, default)
    if value not in PROMPT_EXAMPLES:
        raise RecipeError(
            f"{fields.where}.examples is {value!r}; use {', '.join(PROMPT_EXAMPLES)}"
        )
    return value


def _skills_fixed(fields: _Fields) -> bool:
    """Read the ``skills`` part."""
    fields.allow("fixed")
    return fields.get("fixed", bool, False)


def _accuracy(fields: _Fields) -> tuple[Path | None, bool]:
    """Read the ``accuracy`` part."""
    fields.allow("dataset", "unquantized")
    dataset = fields.get("dataset", str, "")
    path = fields.file.parent / dataset if dataset else None
    if path is not None and not path.is_file():
        raise RecipeError(f"{fields.where}.dataset: {path} does not exist")
    return path, fields.get("unquantized", bool, False)


def _calibration(fields: _Fields) -> CalibrationSettings:
    """Read the ``calibration`` part."""
    fields.allow("commands", "text", "passages", "tokens", "seed")
    text = fields.get("text", str, "")
    path = fields.file.parent / text if text else None
    if path is not None and not path.is_file():
        raise RecipeError(f"{fields.where}.text: {path} does not exist")
    standard = CalibrationSettings()
    values = {
        key: fields.get(key, int, getattr(standard, key))
        for key in ("commands", "passages", "tokens", "seed")
    }
    for key, least in (("commands", 0), ("passages", 1), ("tokens", 2)):
        if values[key] < least:
            raise RecipeError(f"{fields.where}.{key} is {values[key]}, expected {least} or more")
    return CalibrationSettings(text=path, **values)


def _activations(quantize: _Fields) -> Activations | None:
    """Read ``quantize.activations``."""
    if "activations" not in quantize.values:
        return None
    fields = _Fields(quantize.file, "quantize.activations", quantize.get("activations", dict))
    fields.allow("method", "type", "bits", "percentile")
    method, kind = fields.get("method", str), fields.get("type", str, "int")
    for value, known, key in (
        (method, ("static", "dynamic"), "method"),
        (kind, ("int", "fp8"), "type"),
    ):
        if value not in known:
            raise RecipeError(f"{fields.where}.{key}: unknown {value!r}{nearest(value, known)}")
    if (method, kind) == ("dynamic", "fp8"):
        raise RecipeError(f"{fields.where}: dynamic ranges are for type int only")
    bits = fields.get("bits", int, 8)
    if not 4 <= bits <= 8 or (kind == "fp8" and bits != 8):
        raise RecipeError(f"{fields.where}.bits must be from 4 to 8, and 8 for fp8, not {bits}")
    percentile = float(fields.values.get("percentile", 100))
    if not 50 < percentile <= 100:
        raise RecipeError(f"{fields.where}.percentile must be above 50 and at most 100")
    return Activations(method, kind, bits, percentile)


def _rules(fields: _Fields, target: str) -> tuple[LayerRule, ...]:
    """Read the ``quantize`` part.

    TensorRT's parser refuses scales that are not positive («Scale coefficients must all be
    positive», QuantDequantLinearHelper of onnx-tensorrt).
    """
    others = ("layers", "activations")
    base = {key: value for key, value in fields.values.items() if key not in others}
    last = _rule("*", base, fields.where)
    rules = []
    for pattern, changes in fields.get("layers", dict, {}).items():
        layer = _Fields(fields.file, f"quantize.layers[{pattern!r}]", changes)
        # Settings belong to a method: those of another one do not carry over.
        same = layer.values.get("method", base.get("method")) == base.get("method")
        merged = {**base, **layer.values} if same else layer.values
        rules.append(_rule(str(pattern), merged, layer.where))
    for rule in (*rules, last):
        if target != "ort" and getattr(rule.quantizer, "range", None) == "signed":
            raise RecipeError(
                f"{fields.where}: range signed gives negative scales, which TensorRT does not "
                f"take; use range minmax or mse with target {target}, or target ort"
            )
    return (*rules, last)


def _rule(pattern: str, values: Mapping[str, Any], where: str) -> LayerRule:
    method = values.get("method")
    if not isinstance(method, str):
        raise RecipeError(f"{where}.method is missing or not a name")
    settings = {key: value for key, value in values.items() if key != "method"}
    if method == KEEP and not settings:
        return LayerRule(pattern, None)
    return LayerRule(pattern, make_quantizer(method, settings, where))
