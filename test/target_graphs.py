"""Graphs of tiny models and of recipes, for each target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_models import make_folder, recipe_text
import torch

from quant_llm_ros.quantize.decoder import Decoder
from quant_llm_ros.quantize.graph_targets import export
from quant_llm_ros.quantize.recipe import Recipe
from quant_llm_ros.quantize.tensors import QuantizedTensor

CONTEXT = 64
INT4: dict[str, Any] = {"method": "uniform", "bits": 4, "block": 64}
INT8: dict[str, Any] = {"method": "uniform", "bits": 8, "block": 32}
NONE: dict[str, Any] = {"method": "none"}
# Wide enough for blocks of 64 everywhere.
WIDE: dict[str, Any] = {"intermediate_size": 128}
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama-int4": ("llama", WIDE, INT4),
    "llama-int8": ("llama", {}, INT8),
    "llama-untied": ("llama", {"tie_word_embeddings": False, "vocab_size": 334}, NONE),
    "qwen2-int4": ("qwen2", WIDE, INT4),
    "qwen3-int4": ("qwen3", {**WIDE, "head_dim": 32}, INT4),
}


def export_by(recipe: Recipe, folder: Path) -> tuple[Path, Decoder]:
    """Export a recipe's checkpoint; return the graph, and the decoder with its weights."""
    checkpoint = recipe.checkpoint.open()
    decoder = checkpoint.decoder()

    def weights(name: str) -> QuantizedTensor | torch.Tensor:
        weight = decoder.get_parameter(name).data
        quantizer = recipe.quantizer(name) if weight.ndim == 2 else None
        if quantizer is None:
            return weight
        quantized = quantizer(weight)
        decoder.set_weight(name, quantized.dequantize())
        return quantized

    path = folder / "model.onnx"
    export(
        checkpoint.config,
        weights,
        path,
        context_length=recipe.context_length,
        progress=lambda part: None,
        target=recipe.target,
    )
    return path, decoder


def exported(folder: Path, model: str, target: str) -> tuple[Path, Decoder]:
    """Export a tiny model."""
    architecture, changes, method = MODELS[model]
    location = make_folder(folder / "model", architecture, **changes)
    recipe = folder / "recipe.yaml"
    settings = {"quantize": method, "context_length": CONTEXT, "target": target}
    recipe.write_text(recipe_text(location, **settings))
    return export_by(Recipe.load(recipe), folder)
