"""Quantization-aware training: the model computes with rounded weights in every step.

Simulated quantization with the straight-through estimator (``ste``): Jacob et al. 2018
(arXiv:1712.05877), section 3; Bengio et al. 2013 (arXiv:1308.3432), section 4. The gradient passes
the rounding as if there were none; any method of recipes that needs no calibration can be trained.

Learned step sizes (``lsq``): Esser et al. 2020, «Learned Step Size Quantization»
(arXiv:1902.08153), equations 1 to 3. The step sizes of a uniform grid are trained too. They go to
``steps.safetensors`` beside the adapter, from which the recipes' method ``learned`` takes them.

Training on frozen quantized weights (``frozen``): Dettmers et al. 2023, «QLoRA»
(arXiv:2305.14314), section 3. The weights are rounded once; the adapter stays beside them, as the
recipes' ``correction``.

What is rounded is the sum of a frozen weight and the adapter's update, as in ``rounding.py``, or a
weight that is trained whole.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Protocol

from peft.tuners.lora import Linear as LoraLinear
import safetensors.torch
import torch
from torch import nn, Tensor
from torch.nn import functional

from quant_llm_ros.errors import RecipeError
from quant_llm_ros.quantize.adapter import Adapter
from quant_llm_ros.quantize.methods.grid import away_from_zero
from quant_llm_ros.quantize.methods.learned import LearnedQuantizer, STEPS
from quant_llm_ros.quantize.methods.uniform import UniformQuantizer
from quant_llm_ros.quantize.recipe import LayerRule, Recipe
from quant_llm_ros.quantize.tensors import Quantizer
from quant_llm_ros.training.rounding import lora_layers, plain_layers, Rounding


class Simulation(Protocol):
    """How quantization takes part in training."""

    def refresh(self) -> None:
        """Begin, or renew what depends on the weights."""

    def parameters(self) -> dict[str, nn.Parameter]:
        """Give what is trained besides the weights, by the names of these."""

    def save(self, folder: Path) -> None:
        """Write what the recipe needs besides the adapter."""


def recipe_for_training(recipe: Recipe, method: str) -> Recipe:
    """Give a recipe whose grids do not depend on files that training has yet to write.

    Raises:
        RecipeError: Its method cannot be trained like this.
    """
    if recipe.needs_calibration and method != "rounding":
        raise RecipeError(
            f"{recipe.file}: its method looks at calibration text, and {method} training cannot; "
            "train for one that does not, such as uniform"
        )
    rules = tuple(LayerRule(rule.pattern, _untrained(rule.quantizer)) for rule in recipe.rules)
    return dataclasses.replace(recipe, rules=rules)


def _untrained(quantizer: Quantizer | None) -> Quantizer | None:
    if isinstance(quantizer, LearnedQuantizer):
        return dataclasses.replace(quantizer, steps="")
    return quantizer


def make_simulation(method: str, model: nn.Module, recipe: Recipe) -> Simulation:
    """Prepare a model with an adapter for training by a method of the settings.

    Raises:
        RecipeError: The recipe's grid has no step sizes that could be learned.
    """
    if method == "rounding":
        return Rounding(model, recipe)
    if method == "frozen":
        return Frozen()
    kind = LearnedSteps if method == "lsq" else StraightThrough
    return kind(model, recipe)


class Frozen:
    """Nothing changes in training: the weights were rounded before."""

    def refresh(self) -> None:
        """Do nothing."""

    def parameters(self) -> dict[str, nn.Parameter]:
        """Give none."""
        return {}

    def save(self, folder: Path) -> None:
        """Write nothing."""


class StraightThrough:
    """Rounds weights, or the sums of weight and update, in every pass."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        """Take a model, with an adapter or without, and the recipe that will quantize it."""
        self._on = False
        self._layers = lora_layers(model) or plain_layers(model)
        for name, layer in self._layers.items():
            quantizer = recipe.quantizer(name)
            if quantizer is not None:
                self._replace(name, layer, quantizer)

    def refresh(self) -> None:
        """Round from now on."""
        self._on = True

    def pause(self) -> None:
        """Round no more until the next refresh."""
        self._on = False

    def parameters(self) -> dict[str, nn.Parameter]:
        """Give none."""
        return {}

    def save(self, folder: Path) -> None:
        """Write nothing: the grid follows from the weights."""

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """Give the weights of all layers as they are to be saved, by name, ``[out, in]``."""
        return {name: weight_of(layer) for name, layer in self._layers.items()}

    def rounded(self, name: str, weight: Tensor, quantizer: Quantizer) -> Tensor:
        """Round a weight so that its gradient is that of the result."""
        with torch.no_grad():
            change = quantizer(weight).dequantize() - weight
        return weight + change

    def _replace(self, name: str, layer: nn.Linear | LoraLinear, quantizer: Quantizer) -> None:
        plain = layer.forward

        def forward(x: Tensor, *arguments: Any, **named: Any) -> Tensor:
            if not self._on:
                result: Tensor = plain(x, *arguments, **named)
                return result
            # In FP32, as the build computes it: codes must come out the same.
            with torch.autocast(x.device.type, enabled=False):
                weight = self.rounded(name, weight_of(layer), quantizer)
            return functional.linear(x, weight, layer.bias)

        layer.forward = forward


class LearnedSteps(StraightThrough):
    """Rounds to grids whose step sizes are trained."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        """Begin with the step sizes of the recipe's range.

        Raises:
            RecipeError: The recipe's grid has no step sizes that could be learned.
        """
        self._steps: dict[str, nn.Parameter] = {}
        self._bits: dict[str, int] = {}
        self._signed: set[str] = set()  # weights whose steps may be negative
        super().__init__(model, recipe)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Give the step sizes."""
        return self._steps

    def save(self, folder: Path) -> None:
        """Write the step sizes."""
        # FP16: half the file, and a step is off by a few parts in ten thousand at most.
        tensors = {
            name: _stored(step.detach(), name in self._signed).to("cpu", torch.float16)
            for name, step in self._steps.items()
        }
        safetensors.torch.save_file(tensors, folder / STEPS)

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """Give the weights of all layers, rounded: in any type they are rounded so again."""
        return {
            name: _Lsq.apply(weight, self._steps[name], self._bits[name], name in self._signed)
            if name in self._steps
            else weight
            for name, weight in super().weights().items()
        }

    def rounded(self, name: str, weight: Tensor, quantizer: Quantizer) -> Tensor:
        """Round a weight with the trained step sizes."""
        signed = name in self._signed
        result: Tensor = _Lsq.apply(weight, self._steps[name], self._bits[name], signed)
        return result

    def _replace(self, name: str, layer: nn.Linear | LoraLinear, quantizer: Quantizer) -> None:
        grid = isinstance(quantizer, LearnedQuantizer) or (
            isinstance(quantizer, UniformQuantizer)
            and quantizer.symmetric
            and quantizer.block != "tensor"
        )
        if not grid:
            raise RecipeError(
                "method lsq trains the step sizes of symmetric grids in blocks; quantize with "
                f"method learned, not {type(quantizer).__name__}"
            )
        with torch.no_grad():
            scales = quantizer(weight_of(layer)).scales
        assert scales is not None
        if getattr(quantizer, "range", "") == "signed":
            self._signed.add(name)
        assert isinstance(quantizer, (LearnedQuantizer, UniformQuantizer))
        self._bits[name] = quantizer.bits
        self._steps[name] = nn.Parameter(scales)
        super()._replace(name, layer, quantizer)


class _Lsq(torch.autograd.Function):
    """Rounding to learned step sizes (Esser et al. 2020, equations 1 to 3)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, step: Tensor, bits: int, signed: bool) -> Tensor:
        """Round ``[out, in]`` to multiples of ``step`` ``[out, blocks]``."""
        ctx.save_for_backward(weight, step)
        ctx.limit = 2 ** (bits - 1)
        ctx.signed = signed
        ratio, size = _ratio(weight, step, signed)
        codes = ratio.round().clamp(-ctx.limit, ctx.limit - 1)
        return (codes * size).view(weight.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Pass the gradient inside of the range; give that of the step sizes."""
        weight, step = ctx.saved_tensors
        ratio, _ = _ratio(weight, step, ctx.signed)
        gradient = gradients[0].reshape(ratio.shape)
        inside = (ratio >= -ctx.limit) & (ratio <= ctx.limit - 1)
        codes = ratio.round().clamp(-ctx.limit, ctx.limit - 1)
        of_step = torch.where(inside, codes - ratio, codes) * gradient
        # Section 2.2: keeps the relative change of steps and weights alike.
        share = (ratio.shape[2] * max(1, ctx.limit - 1)) ** -0.5
        of_step = of_step.sum(2) * share
        if not ctx.signed:  # its absolute value is what rounds
            of_step *= torch.sign(step)
        return (gradient * inside).view(weight.shape), of_step, None, None


def _ratio(weight: Tensor, step: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """Weights in steps, and the steps, ``[out, blocks, size]`` and ``[out, blocks, 1]``.

    The steps are as they will be stored, in FP16, so that the codes come out the same.
    """
    size = away_from_zero(_stored(step, signed).half().float())[:, :, None]
    return weight.view(*step.shape, -1) / size, size


def _stored(step: Tensor, signed: bool) -> Tensor:
    """Give the steps that a bundle gets: only those of the range ``signed`` may be negative."""
    return step if signed else step.abs()


def weight_of(layer: nn.Linear | LoraLinear) -> Tensor:
    """Give the weight that a layer computes with, its adapter's update added, ``[out, in]``."""
    if not isinstance(layer, LoraLinear):
        return layer.weight
    product: Tensor = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    total: Tensor = layer.weight + product * layer.scaling["default"]
    return total


@torch.no_grad()
def merge_start(model: Any, start: Path) -> None:
    """Merge an adapter into the weights of a model from transformers."""
    adapter = Adapter.load(start)
    for name, parameter in model.named_parameters():
        parameter.data = adapter.merge(name, parameter.data)


@torch.no_grad()
def round_once(model: Any, recipe: Recipe) -> None:
    """Give a model from transformers the quantized weights of a recipe."""
    for name, parameter in model.named_parameters():
        weight = parameter.data
        quantizer = recipe.quantizer(name) if weight.ndim == 2 else None
        parameter.data = quantizer(weight).dequantize() if quantizer else weight


def distillation_loss(logits: Tensor, teacher: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of a student from its teacher, in nats per token.

    Hinton et al. 2015, «Distilling the Knowledge in a Neural Network» (arXiv:1503.02531), section
    2, at temperature 1.

    Args:
        logits: Of the student, ``[k, vocab]``.
        teacher: Of the teacher, ``[k, vocab]``.
    """
    return functional.kl_div(
        logits.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="batchmean"
    )
