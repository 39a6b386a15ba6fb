"""Quantizes a decoder layer by layer, while the exporter asks for its weights."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any

import torch
from torch import nn, Tensor

from quant_llm_ros.errors import CheckpointError, RecipeError
from quant_llm_ros.quantize.adapter import Adapter
from quant_llm_ros.quantize.calibration import HiddenStates, Passages
from quant_llm_ros.quantize.decoder import Decoder
from quant_llm_ros.quantize.recipe import Recipe
from quant_llm_ros.quantize.tensors import InputStatistics, QuantizedTensor, Quantizer

_LAYER = "model.layers."
# What a norm or a layer gives to which others: the places where factors of inputs can go without
# changing the model. The values' do not go into v_proj: its rows are shared by several heads.
_FEED_FORWARD_NORM = "feed_forward_norm"  # which that is depends on the architecture
_GROUPS = (
    ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    (_FEED_FORWARD_NORM, ("mlp.gate_proj", "mlp.up_proj")),
    ("mlp.up_proj", ("mlp.down_proj",)),
)


class QuantizingSource:
    """Quantizes weights when the exporter asks for them.

    The decoder gets the dequantized values in exchange, so that after the export it computes in
    FP32 exactly what the exported weights mean.

    With calibration text all weights of a layer are quantized at once, with what is known about
    their inputs, when the first of them is asked for.

    Attributes:
        parameters: Number of weights handed out.
        bits: Bits that they take when stored.
    """

    def __init__(
        self,
        decoder: Decoder,
        recipe: Recipe,
        passages: Sequence[Passages] = (),
        correction: Adapter | None = None,
    ) -> None:
        """Take a decoder, which will be changed.

        Args:
            decoder: With all its weights.
            recipe: Says which quantizer a weight gets.
            passages: Calibration text; the methods of some recipes need it.
            correction: Adapter that was trained on the quantized weights, or None.

        Raises:
            CheckpointError: The correction is of another model.
        """
        self._decoder = decoder
        self._recipe = recipe
        self._passages = passages
        self._correction = correction
        unknown = set(correction.pairs if correction else ()) - set(decoder.matrix_names())
        if unknown:
            raise CheckpointError(
                f"the correction changes {min(unknown)}, which the checkpoint lacks: it was "
                f"trained for another model"
            )
        self._states: HiddenStates | None = None
        self._layer = -1
        self._ready: dict[str, QuantizedTensor] = {}
        self.parameters = 0
        self.bits = 0

    def __call__(self, name: str) -> QuantizedTensor | Tensor:
        """Quantize a weight by the recipe; vectors (norms, biases) stay in FP32.

        Raises:
            RecipeError: The quantizer does not take the weight.
        """
        if self._passages and name.startswith(_LAYER):
            self._enter(int(name.removeprefix(_LAYER).partition(".")[0]))
        weight = self._decoder.get_parameter(name).data
        self.parameters += weight.numel()
        quantizer = self._recipe.quantizer(name) if weight.ndim == 2 else None
        if quantizer is None:
            self.bits += weight.numel() * 32
            return weight
        quantized = self._ready.pop(name, None) or self._quantize(name, quantizer, None)
        self.bits += quantized.size_bits
        return quantized

    def _quantize(
        self, name: str, quantizer: Quantizer, inputs: InputStatistics | None
    ) -> QuantizedTensor:
        """Quantize a weight, in the decoder too."""
        try:
            quantized = quantizer(self._decoder.get_parameter(name).data, inputs)
        except ValueError as error:
            raise RecipeError(f"{self._recipe.file}: {name}: {error}") from error
        pair = self._correction.pairs.get(name) if self._correction else None
        if self._correction and pair:
            down, up = pair
            quantized = dataclasses.replace(
                quantized, low_rank=(down, up * self._correction.scale)
            )
        self._decoder.set_weight(name, quantized.dequantize())
        if self._recipe.activations and name.startswith(_LAYER):
            rounding = self._recipe.activations.fit(inputs)
            if quantized.low_rank is not None:
                raise RecipeError(
                    f"{self._recipe.file}: correction and quantize.activations exclude each other"
                )
            quantized = dataclasses.replace(quantized, inputs=rounding)

            def rounded(module: nn.Module, arguments: tuple[Any, ...]) -> Tensor:
                return rounding(*arguments)

            self._module(name).register_forward_pre_hook(rounded)
        return quantized

    def _enter(self, index: int) -> None:
        """Quantize a layer, once, and run the calibration text through it."""
        if index == self._layer:
            return
        self._layer = index
        if self._states is None:
            self._states = HiddenStates(self._decoder, self._passages)
        prefix = f"{_LAYER}{index}."
        found = self._states.observe(index)
        if self._fold_factors(prefix, found):
            found = self._states.observe(index)
        for name in self._decoder.matrix_names():
            quantizer = self._recipe.quantizer(name) if name.startswith(prefix) else None
            if quantizer is not None:
                leaf = name.split(".")[-2]
                self._ready[name] = self._quantize(name, quantizer, found[leaf])
        self._states.advance(index)

    def _fold_factors(self, prefix: str, found: dict[str, InputStatistics]) -> bool:
        """Scale inputs where the quantizers of all their readers ask for it.

        Returns:
            Whether anything was scaled.
        """
        changed = False
        for giver, readers in _GROUPS:
            names = [f"{prefix}{reader}.weight" for reader in readers]
            quantizers = [self._recipe.quantizer(name) for name in names]
            choose = getattr(quantizers[0], "weight_factors", None)
            if choose is None or any(quantizer != quantizers[0] for quantizer in quantizers):
                continue
            weights = [self._decoder.get_parameter(name).data for name in names]
            factors = choose(weights, found[readers[0].rpartition(".")[2]])
            for name, weight in zip(names, weights, strict=True):
                self._decoder.set_weight(name, weight * factors)
            if giver == _FEED_FORWARD_NORM:
                giver = self._decoder.config.feed_forward_norm
            giver_name = f"{prefix}{giver}.weight"
            given = self._decoder.get_parameter(giver_name).data
            divisor = factors if given.ndim == 1 else factors[:, None]
            self._decoder.set_weight(giver_name, given / divisor)
            changed = True
        return changed

    def _module(self, name: str) -> torch.nn.Module:
        return self._decoder.get_submodule(name.removesuffix(".weight"))
