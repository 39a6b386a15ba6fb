"""Adapters: reading one and merging it into a weight.

Hu et al. 2021, «LoRA: Low-Rank Adaptation of Large Language Models», section 4.1. The files are
those that Hugging Face ``peft`` writes: ``adapter_config.json`` and ``adapter_model.safetensors``.
Weights that training for few bits changed whole lie in files of the same names, which are our own:
``kind`` is ``whole_weights``, and the tensors have the names of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from quant_llm_ros.engine.bundle import file_sha256
from quant_llm_ros.errors import CheckpointError
from quant_llm_ros.quantize.decoder import Decoder

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What ``peft`` puts before the name of a weight."""
WHOLE_WEIGHTS = "whole_weights"

# Settings of peft under which an update is not alpha / r times B A.
_UNUSUAL = ("use_rslora", "use_dora", "alpha_pattern", "rank_pattern", "fan_in_fan_out")


@dataclasses.dataclass(frozen=True)
class Adapter:
    """What training made of some weights: a low-rank update, or another weight in its place.

    Attributes:
        pairs: For each adapted weight, by its Hugging Face name, the matrices A ``[rank, in]`` and
            B ``[out, rank]``, float32.
        scale: Factor of the update.
        sha256: Hash of the file with the matrices.
        whole: Weights that take the place of others, by name, ``[out, in]``. They were trained
            to be rounded, and are no model that a rounded one could be compared with.
    """

    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    scale: float
    sha256: str
    whole: Mapping[str, torch.Tensor] = dataclasses.field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """Names of the weights that it changes."""
        return {*self.pairs, *self.whole}

    @classmethod
    def load(cls, folder: Path) -> Adapter:
        """Read an adapter.

        Raises:
            CheckpointError: A file is missing or damaged, or the adapter is of a kind that is not
                supported.
        """
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            digest = file_sha256(folder / TENSORS)
            tensors = safetensors.torch.load_file(folder / TENSORS)
        except OSError as error:
            raise CheckpointError(
                f"{error.filename}: {error.strerror}; an adapter is a folder with {CONFIG} and "
                f"{TENSORS}, as `quant_llm finetune` writes it"
            ) from error
        except (ValueError, safetensors.SafetensorError) as error:
            raise CheckpointError(f"{folder}: damaged adapter: {error}") from error
        if config.get("kind") == WHOLE_WEIGHTS:
            return cls({}, 1.0, digest, tensors)
        unusual = [key for key in _UNUSUAL if config.get(key)]
        if config.get("peft_type") != "LORA" or unusual:
            what = f"; this one has {unusual[0]}" if unusual else ""
            raise CheckpointError(
                f"{folder / CONFIG}: only plain LoRA adapters can be merged{what}"
            )
        rank, alpha = config.get("r"), config.get("lora_alpha")
        if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, (int, float)):
            raise CheckpointError(f"{folder / CONFIG}: r and lora_alpha must be numbers")
        pairs = {}
        for key, down in tensors.items():
            name, part, _ = key.removeprefix(PREFIX).partition(".lora_A.weight")
            if not part:
                continue
            up = tensors.get(f"{PREFIX}{name}.lora_B.weight")
            if up is None or up.shape[1] != down.shape[0]:
                raise CheckpointError(f"{folder / TENSORS}: {key} has no matching lora_B")
            pairs[f"{name}.weight"] = (down.float(), up.float())
        if 2 * len(pairs) != len(tensors):
            raise CheckpointError(
                f"{folder / TENSORS}: has tensors that are not of a LoRA adapter"
            )
        return cls(pairs, alpha / rank, digest)

    @classmethod
    def load_all(cls, folders: Sequence[Path]) -> Adapter | None:
        """Read adapters that are trained one on top of the other, as a single one.

        Returns:
            Their sum, with the scales in its matrices B; None for no adapters. A whole weight
            replaces what the adapters before it say of it.

        Raises:
            CheckpointError: See :meth:`load`.
        """
        parts = [cls.load(folder) for folder in folders]
        if len(parts) < 2:
            return parts[0] if parts else None
        pairs: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        whole: dict[str, torch.Tensor] = {}
        for part in parts:
            for name, weight in part.whole.items():
                whole[name] = weight
                pairs.pop(name, None)
            for name, (down, up) in part.pairs.items():
                up = up * part.scale
                if name in pairs:
                    down = torch.cat((pairs[name][0], down))
                    up = torch.cat((pairs[name][1], up), dim=1)
                pairs[name] = (down, up)
        joined = "".join(part.sha256 for part in parts)
        return cls(pairs, 1.0, hashlib.sha256(joined.encode()).hexdigest(), whole)

    def merge(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """Add the update of a weight, or put another in its place.

        Args:
            name: Hugging Face name of the weight.
            weight: ``[out, in]``, float32.

        Returns:
            The new weight in a tensor of its own, or ``weight`` itself.

        Raises:
            CheckpointError: The update has another shape.
        """
        if name in self.whole:
            self._check_shape(name, tuple(self.whole[name].shape), weight)
            weight = self.whole[name].to(torch.float32, copy=True)
        if name not in self.pairs:
            return weight
        down, up = self.pairs[name]
        self._check_shape(name, (up.shape[0], down.shape[1]), weight)
        return weight + self.scale * (up @ down)

    def need_comparable(self, what: str) -> None:
        """Refuse to compare a rounded model with this one where that means nothing.

        Args:
            what: What is asked for, as the beginning of the message.

        Raises:
            CheckpointError: It holds whole weights.
        """
        if self.whole:
            raise CheckpointError(
                f"{what} compares with the model before quantization, but the adapter's weights "
                "were trained whole to be rounded; name the adapter that they were trained from"
            )

    def apply(self, decoder: Decoder) -> None:
        """Merge into all weights of a decoder.

        Raises:
            CheckpointError: It was trained for another model.
        """
        for name in sorted(self.names):
            decoder.set_weight(name, self.merge(name, decoder.get_parameter(name).data))

    @staticmethod
    def _check_shape(name: str, shape: tuple[int, ...], weight: torch.Tensor) -> None:
        if shape != tuple(weight.shape):
            raise CheckpointError(
                f"the adapter changes {name} of shape {shape}, but the checkpoint's is "
                f"{tuple(weight.shape)}: it was trained for another model"
            )
