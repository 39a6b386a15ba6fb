"""Mixed precision: which part of a model gets which method, and what that does to it.

The model's weights fall into groups, and a group gets one of several choices, each a method with
its settings as in a recipe. A mixture is judged by the Kullback-Leibler divergence of the next
token from the unquantized model, over all positions of the reference prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import os
from pathlib import Path
import re
import tempfile
from typing import Any

import torch
import yaml

from quant_llm_ros.errors import RecipeError
from quant_llm_ros.quantize import reference
from quant_llm_ros.quantize.recipe import Recipe
from quant_llm_ros.report.loading import TextSource, Unquantized

Choice = Mapping[str, Any]
"""A method and its settings, as under ``quantize`` in a recipe."""

Mixture = tuple[int, ...]
"""The number of the choice of each group."""

DEFAULT_CHOICES: tuple[Choice, ...] = (
    {"method": "uniform", "bits": 4, "block": 32},
    {"method": "uniform", "bits": 8, "block": 32},
)
_NO_PATHS = ("name", "method", "target")
_LAYER = re.compile(r"model\.layers\.\d+\.(self_attn|mlp)\.")


@dataclasses.dataclass(frozen=True)
class Effect:
    """What a choice does to a group.

    Attributes:
        bits: Bits that the group's weights take then.
        kl_nats: Divergence when nothing but this group is quantized.
    """

    bits: int
    kl_nats: float


def read_choices(path: Path) -> tuple[Choice, ...]:
    """Read choices: a YAML list of mappings, each as under ``quantize`` in a recipe.

    Raises:
        RecipeError: The file is missing, or holds something else.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(data, list) or len(data) < 2 or not all(isinstance(c, dict) for c in data):
        raise RecipeError(f"{path} must be a list of two or more methods with their settings")
    return tuple(data)


def describe(choice: Choice) -> str:
    """Name a choice for people: ``uniform, bits 4, block 32``."""
    settings = [f"{key} {value}" for key, value in choice.items() if key != "method"]
    return ", ".join([str(choice["method"]), *settings])


class Mixer:
    """Gives a model's groups their choices, and measures what comes of it.

    Attributes:
        choices: What a group can get.
        groups: Pattern of each group's weights, in the order of the model.
        fixed_bits: Bits of what stays in FP32 whatever is chosen.
    """

    def __init__(
        self, recipe: Recipe, choices: Sequence[Choice], texts: TextSource | None = None
    ) -> None:
        """Load the model of a recipe; what it says about ``quantize`` does not count.

        Args:
            recipe: Names the model.
            choices: What a group can get.
            texts: Makes the texts on which mixtures are judged.

        Raises:
            RecipeError: A choice is unknown or does not fit.
            CheckpointError: The checkpoint is missing or damaged, or the adapter's weights were
                trained whole.
        """
        self.recipe = recipe
        self.choices = tuple(choices)
        self._rules = [choice_recipe(recipe, choice) for choice in choices]
        self._model = Unquantized.load(recipe, texts)
        if self._model.adapter:
            self._model.adapter.need_comparable(f"{recipe.file}: a search")
        decoder = self._model.decoder
        self._weights = {n: decoder.get_parameter(n).data for n in decoder.matrix_names()}
        members: dict[str, list[str]] = {}
        for name in self._weights:
            # Attention and feed-forward of a layer are groups; what is in no layer is one by name.
            layer = _LAYER.match(name)
            members.setdefault(f"{layer.group()}*" if layer else name, []).append(name)
        self.groups = tuple(members)
        self._members = tuple(members.values())
        vectors = set(decoder.parameter_names()) - set(self._weights)
        self.fixed_bits = sum(decoder.get_parameter(name).numel() * 32 for name in vectors)
        self._expected = self._model.logits()

    def apply(self, group: int, choice: int | None) -> int:
        """Give a group's weights the values of a choice, or with None their own back.

        Returns:
            Bits that they take.

        Raises:
            RecipeError: The choice does not fit a weight.
        """
        bits = 0
        for name in self._members[group]:
            weight = self._weights[name]
            quantizer = None if choice is None else self._rules[choice].quantizer(name)
            if quantizer is None:
                self._model.decoder.set_weight(name, weight)
                bits += weight.numel() * 32
                continue
            if getattr(quantizer, "needs_calibration", False):
                raise RecipeError(
                    f"{describe(self.choices[choice or 0])}: has to be shown text; the search "
                    "takes methods that look at the weights alone"
                )
            try:
                quantized = quantizer(weight)
            except ValueError as error:
                what = describe(self.choices[choice or 0])
                raise RecipeError(f"{what}: {name}: {error}") from error
            self._model.decoder.set_weight(name, quantized.dequantize())
            bits += quantized.size_bits
        return bits

    def effect(self, group: int, choice: int) -> Effect:
        """Measure a group's sensitivity to a choice, everything else unquantized."""
        bits = self.apply(group, choice)
        divergence = self._divergence()
        self.apply(group, None)
        return Effect(bits, divergence)

    def divergence(self, mixture: Mixture) -> float:
        """Measure the divergence of a mixture, in nats; the model is as before afterwards."""
        for group, choice in enumerate(mixture):
            self.apply(group, choice)
        divergence = self._divergence()
        for group in range(len(mixture)):
            self.apply(group, None)
        return divergence

    def _divergence(self) -> float:
        with torch.inference_mode():
            return reference.divergence(self._model.logits(), self._expected).kl_nats


def choice_recipe(recipe: Recipe, choice: Choice) -> Recipe:
    """Make the recipe that gives a single choice to all weights.

    Raises:
        RecipeError: The choice is unknown.
    """
    return _load({**recipe.settings, "quantize": dict(choice)}, recipe)


def mixture_settings(
    recipe: Recipe, choices: Sequence[Choice], groups: Sequence[str], mixture: Mixture
) -> dict[str, Any]:
    """Write a mixture as the settings of an ordinary recipe.

    Args:
        recipe: That the search began with.
        choices: What a group could get.
        groups: Patterns of the groups.
        mixture: What each got.
    """
    # The most frequent choice is the recipe's own; the other groups are its exceptions.
    base = max(range(len(choices)), key=lambda choice: (mixture.count(choice), -choice))
    layers = {
        group: dict(choices[choice])
        for group, choice in zip(groups, mixture, strict=True)
        if choice != base
    }
    return {**recipe.settings, "quantize": {**choices[base], "layers": layers}}


def write_recipe(settings: Mapping[str, Any], recipe: Recipe, output: Path, head: str) -> Recipe:
    """Write settings as a recipe file, and read it again.

    Args:
        settings: As in a recipe; their paths are relative to the file of ``recipe``.
        recipe: See there.
        output: File to write.
        head: Comment for its first lines.
    """
    moved = _moved(dict(settings), recipe.file.parent, output.parent)
    comment = "".join(f"# {line}".rstrip() + "\n" for line in head.splitlines())
    text = yaml.safe_dump(moved, sort_keys=False, allow_unicode=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(comment + text, encoding="utf-8")
    return Recipe.load(output)


def _load(settings: Mapping[str, Any], recipe: Recipe) -> Recipe:
    with tempfile.TemporaryDirectory() as folder:
        return write_recipe(settings, recipe, Path(folder) / recipe.file.name, "")


def _moved(value: Any, old: Path, new: Path) -> Any:
    """Make every path of settings that is relative to one folder relative to another."""
    if isinstance(value, dict):
        return {
            key: part if key in _NO_PATHS else _moved(part, old, new)
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [_moved(part, old, new) for part in value]
    if isinstance(value, str) and value and not Path(value).is_absolute():
        path = old / value
        return os.path.relpath(path.resolve(), new.resolve()) if path.exists() else value
    return value
