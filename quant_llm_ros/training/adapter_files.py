"""Writing what was trained as an adapter's files, and beginning with those of another."""

from __future__ import annotations

from collections.abc import Mapping
import json
import os
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn, Tensor

from quant_llm_ros.errors import CheckpointError
from quant_llm_ros.quantize.adapter import CONFIG, PREFIX, TENSORS, WHOLE_WEIGHTS
from quant_llm_ros.training.rounding import lora_layers, TARGETS


def take_over(model: nn.Module, folder: Path) -> None:
    """Give a model's adapter the values of another one.

    Raises:
        CheckpointError: The other one is missing, damaged or of another rank.
    """
    path = folder / TENSORS
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} is no adapter: {error}") from error
    for key, weight in _factors(model).items():
        if key not in tensors or tensors[key].shape != weight.shape:
            rank = min(weight.shape)
            raise CheckpointError(
                f"{path}: {key} is missing or of another rank; begin with an adapter of rank "
                f"{rank} for the same checkpoint"
            )
        weight.data.copy_(tensors[key])


def save_low_rank(model: nn.Module, rank: int, alpha: int, folder: Path) -> None:
    """Write a model's adapter in peft's form, in bfloat16."""
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(TARGETS),
    }
    tensors = {
        key: weight.detach().to("cpu", torch.bfloat16) for key, weight in _factors(model).items()
    }
    _write(folder, config, tensors)


def save_whole(weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write weights ``[out, in]`` that were trained whole, by name, in FP16."""
    tensors = {name: weight.to("cpu", torch.float16) for name, weight in weights.items()}
    _write(folder, {"kind": WHOLE_WEIGHTS}, tensors)


def _factors(model: nn.Module) -> dict[str, nn.Parameter]:
    """Give the matrices A and B of all layers by their names in peft's files."""
    found = {}
    for name, layer in lora_layers(model).items():
        module = name.removesuffix(".weight")
        for part, matrix in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B)):
            found[f"{PREFIX}{module}.{part}.weight"] = matrix["default"].weight
    return found


def _write(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write an adapter's files; the old tensors stay until the new ones are complete."""
    folder.mkdir(exist_ok=True)
    staged = folder / f"{TENSORS}.part"
    safetensors.torch.save_file(tensors, staged, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    os.replace(staged, folder / TENSORS)
