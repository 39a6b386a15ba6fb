"""The model that a recipe begins with: its checkpoint, with the adapter merged."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import torch

from quant_llm_ros.quantize import reference
from quant_llm_ros.quantize.adapter import Adapter
from quant_llm_ros.quantize.calibration import Passages
from quant_llm_ros.quantize.checkpoint import Checkpoint
from quant_llm_ros.quantize.decoder import Decoder
from quant_llm_ros.quantize.recipe import Recipe

TextSource = Callable[[Recipe, Checkpoint], Passages]
"""Makes the texts on which models are compared."""


@dataclasses.dataclass(frozen=True)
class Unquantized:
    """A model before quantization.

    Attributes:
        checkpoint: Where it comes from.
        adapter: What was merged, or None.
        decoder: With the adapter merged.
        prompts: Token ids of the reference sentences.
        texts: On which quantized models are compared with this one.
    """

    checkpoint: Checkpoint
    adapter: Adapter | None
    decoder: Decoder
    prompts: tuple[list[int], ...]
    texts: Passages

    @classmethod
    def load(cls, recipe: Recipe, texts: TextSource | None = None) -> Unquantized:
        """Load the model of a recipe.

        Args:
            recipe: Names the checkpoint and the adapter.
            texts: Makes the texts to compare on; None: they are the reference sentences.

        Raises:
            CheckpointError: The checkpoint or the adapter is missing or damaged.
        """
        checkpoint = recipe.checkpoint.open()
        decoder = checkpoint.decoder()
        adapter = Adapter.load_all(recipe.adapters)
        if adapter:
            adapter.apply(decoder)
        prompts = [ids[: recipe.context_length] for ids in reference.prompts(checkpoint)]
        made = texts(recipe, checkpoint) if texts else Passages((), prompts)
        return cls(checkpoint, adapter, decoder, tuple(prompts), made)

    def logits(self) -> list[torch.Tensor]:
        """Compute the logits of the texts with the decoder's present weights."""
        return reference.passages_logits(self.decoder, self.texts)
