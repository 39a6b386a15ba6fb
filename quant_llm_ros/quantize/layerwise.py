"""Quantizes a decoder layer by layer, while the exporter asks for its weights.

The order in which the exporter asks is: embedding, head where it is not tied, layers, last norm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

WeightLoader = Callable[[Decoder, str], None]
"""Gives a parameter of a decoder, by its name, its unquantized value."""

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
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
    """Quantizes weights when the exporter asks for them, layer by layer.

    All weights of a layer are quantized at once when the first of them is asked for: with what
    calibration text tells about their inputs, where there is some. The decoder gets the
    dequantized values in exchange, and so computes in FP32 exactly what the exported weights mean.

    Given a way to load weights, the decoder begins empty, and a layer is forgotten when the next
    one is entered: the model need not fit into memory, only its embedding and a layer do. What the
    whole model computes is then known for the reference text, which goes through the layers along
    with everything else, before and after quantization.

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
        *,
        load: WeightLoader | None = None,
        reference: Passages | None = None,
    ) -> None:
        """Take a decoder, which will be changed.

        Args:
            decoder: With all its weights, or empty where ``load`` is given.
            recipe: Says which quantizer a weight gets.
            passages: Calibration text; the methods of some recipes need it.
            correction: Adapter that was trained on the quantized weights, or None.
            load: Gives a parameter of the decoder its unquantized value.
            reference: Text whose logits :meth:`logits` will give; only with ``load``.

        Raises:
            CheckpointError: The correction is of another model, or not low-rank.
        """
        self._decoder = decoder
        self._recipe = recipe
        self._passages = passages
        self._correction = correction
        self._load = load
        self._reference = [reference] if reference else []
        unknown = (correction.names if correction else set()) - set(decoder.matrix_names())
        if unknown:
            raise CheckpointError(
                f"the correction changes {min(unknown)}, which the checkpoint lacks: it was "
                f"trained for another model"
            )
        if correction and correction.whole:
            raise CheckpointError(
                f"the correction replaces {min(correction.whole)}; what stays beside quantized "
                "weights must be low-rank: name it under adapter"
            )
        self._calibrating: HiddenStates | None = None
        self._before: HiddenStates | None = None  # reference text through the unquantized layers
        self._after: HiddenStates | None = None  # and through the quantized ones
        self._layer = -1
        self._ready: dict[str, QuantizedTensor] = {}
        self._kept: dict[str, QuantizedTensor] = {}  # what the head is made of
        self.parameters = 0
        self.bits = 0

    def __call__(self, name: str) -> QuantizedTensor | Tensor:
        """Quantize a weight by the recipe; vectors (norms, biases) stay in FP32.

        Raises:
            RecipeError: The quantizer does not take the weight.
            CheckpointError: The weight cannot be loaded.
        """
        if name.startswith(_LAYER):
            self._enter(int(name.removeprefix(_LAYER).partition(".")[0]))
        elif self._load:
            self._load(self._decoder, name)
            if name == EMBEDDING and self._reference:
                self._before = HiddenStates(self._decoder, self._reference)
        weight = self._decoder.get_parameter(name).data
        self.parameters += weight.numel()
        quantizer = self._recipe.quantizer(name) if weight.ndim == 2 else None
        if quantizer is None:
            self.bits += weight.numel() * 32
        quantized = self._ready.pop(name, None)
        if quantizer is not None and quantized is None:
            quantized = self._quantize(name, quantizer, None)
        if name == EMBEDDING:
            self._look_up()
        if self._load and not name.startswith(_LAYER):
            if quantized is not None and name == self._head_name:
                self._kept[name] = quantized
            self._decoder.forget(name)
            self._decoder.forget(HEAD)  # which a tied embedding is
        if quantized is None:
            return weight
        self.bits += quantized.size_bits
        return quantized

    def logits(self) -> tuple[list[Tensor], list[Tensor]]:
        """Give the reference text's logits, after the export.

        Returns:
            Float32 ``[n, vocab]`` for each text, before and after quantization.
        """
        assert self._load and self._before and self._after
        decoder = self._decoder
        decoder.forget(_LAYER)
        name = self._head_name
        self._load(decoder, "model.norm.weight")
        both = []
        for states in (self._before, self._after):
            decoder.forget(name)
            if states is self._after and name in self._kept:
                decoder.set_weight(name, self._kept[name].dequantize())
            else:
                self._load(decoder, name)
            with torch.inference_mode():
                both.append([decoder.head(x) for x in states.texts])
        decoder.forget("")
        return both[0], both[1]

    @property
    def _head_name(self) -> str:
        return EMBEDDING if self._decoder.config.tied_embedding else HEAD

    def _look_up(self) -> None:
        """Look the texts up in the quantized embedding."""
        if self._passages:
            self._calibrating = HiddenStates(self._decoder, self._passages)
        if self._reference:
            self._after = HiddenStates(self._decoder, self._reference)

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
        """Quantize a layer, once, and run all texts through it."""
        if index == self._layer:
            return
        self._layer = index
        prefix = f"{_LAYER}{index}."
        names = [name for name in self._decoder.parameter_names() if name.startswith(prefix)]
        if self._load:
            self._decoder.forget(_LAYER)
            for name in names:
                self._load(self._decoder, name)
        if self._before:
            self._before.advance(index)
        found: dict[str, InputStatistics] = {}
        if self._passages:
            if self._calibrating is None:  # the embedding was not asked for
                self._look_up()
            assert self._calibrating is not None
            found = self._calibrating.observe(index)
            if self._fold_factors(prefix, found):
                found = self._calibrating.observe(index)
        for name in names:
            matrix = self._decoder.get_parameter(name).ndim == 2
            quantizer = self._recipe.quantizer(name) if matrix else None
            if quantizer is not None:
                leaf = name.split(".")[-2]
                self._ready[name] = self._quantize(name, quantizer, found.get(leaf))
        for states in (self._calibrating, self._after):
            if states:
                states.advance(index)

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
