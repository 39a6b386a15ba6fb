"""The model that a recipe begins with: its checkpoint, with the adapter merged."""

from __future__ import annotations

import dataclasses

import torch

from quant_llm_ros.quantize import reference
from quant_llm_ros.quantize.adapter import Adapter
from quant_llm_ros.quantize.checkpoint import Checkpoint
from quant_llm_ros.quantize.decoder import Decoder
from quant_llm_ros.quantize.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Unquantized:
    """A model before quantization.

    Attributes:
        checkpoint: Where it comes from.
        decoder: With the adapter merged.
        prompts: Token ids of the reference prompts.
    """

    checkpoint: Checkpoint
    decoder: Decoder
    prompts: tuple[list[int], ...]

    @classmethod
    def load(cls, recipe: Recipe) -> Unquantized:
        """Load the model of a recipe.

        Raises:
            CheckpointError: The checkpoint or the adapter is missing or damaged.
        """
        checkpoint = recipe.checkpoint.open()
        decoder = checkpoint.decoder()
        if recipe.adapter:
            adapter = Adapter.load(recipe.adapter)
            for name in adapter.pairs:
                merged = adapter.merge(name, decoder.get_parameter(name).data)
                decoder.set_weight(name, merged)
        prompts = [ids[: recipe.context_length] for ids in reference.prompts(checkpoint)]
        return cls(checkpoint, decoder, tuple(prompts))

    def logits(self) -> list[torch.Tensor]:
        """Compute the logits of the reference prompts with the decoder's present weights."""
        return [reference.decoder_logits(self.decoder, prompt) for prompt in self.prompts]
