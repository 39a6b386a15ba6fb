"""The quantizer's rounding inside of training, so that the rounded model is what is trained.

Simulated quantization with the straight-through estimator: Jacob et al. 2018, «Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference», section 3; Bengio et
al. 2013, «Estimating or Propagating Gradients Through Stochastic Neurons», section 4.

The weight that is rounded is the sum of the frozen weight W and the adapter's update U. The model
computes with (Q(W + U') - U') + U, where U' is the update at the last refresh and Q rounds: just
the rounded weight at a refresh, and between two of them the gradient reaches U as if nothing had
been rounded. The term in brackets is frozen, so a step costs what it costs without rounding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft.tuners.lora import Linear as LoraLinear
import torch
from torch import nn, Tensor

from quant_llm_ros.quantize.adapter import PREFIX
from quant_llm_ros.quantize.recipe import Recipe

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The matrices of a layer that are trained."""


def lora_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """Give the layers that carry an adapter, by the name of the weight that they adapt."""
    return {
        f"{name.removeprefix(PREFIX)}.weight": module
        for name, module in model.named_modules()
        if isinstance(module, LoraLinear)
    }


def plain_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Give the layers' matrices of a model without an adapter, by the names of their weights."""
    return {
        f"{name}.weight": module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in TARGETS
    }


class Rounding:
    """Keeps the sum of frozen weights and updates on the grid of a recipe."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        """Take a model with an adapter and the recipe that it will be quantized by."""
        self._layers = lora_layers(model)
        self._recipe = recipe
        self._frozen: dict[str, Tensor] = {}

    @torch.no_grad()
    def refresh(self) -> None:
        """Round all sums anew."""
        for name, layer in self._layers.items():
            quantizer = self._recipe.quantizer(name)
            if quantizer is None:
                continue
            weight = layer.base_layer.weight
            frozen = self._frozen.setdefault(name, weight.data)
            update = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
            update *= layer.scaling["default"]
            weight.data = quantizer(frozen + update).dequantize() - update

    def parameters(self) -> dict[str, nn.Parameter]:
        """Give what is trained besides the adapter: nothing."""
        return {}

    def save(self, folder: Path) -> None:
        """Write what the recipe needs besides the adapter: nothing."""


def round_embedding(model: Any, recipe: Recipe) -> None:
    """Replace the frozen embedding, which no adapter changes, by its rounded values."""
    quantizer = recipe.quantizer("model.embed_tokens.weight")
    if quantizer is not None:
        weight = model.get_input_embeddings().weight
        weight.data = quantizer(weight.data).dequantize()
