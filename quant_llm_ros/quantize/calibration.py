"""Calibration: what goes into each layer while the model reads text of its task.

The text is run through the model layer by layer: only the states between two layers are kept, and
what is learnt about a layer's inputs is forgotten when its weights are quantized. A layer sees
what the quantized layers before it really give, as in Frantar et al. 2022 (GPTQ,
arXiv:2210.17323), section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
from pathlib import Path
import random

import tokenizers
import torch
from torch import nn, Tensor

from quant_llm_ros.errors import RecipeError
from quant_llm_ros.quantize.decoder import Decoder
from quant_llm_ros.quantize.tensors import E4M3_LIMIT, InputQuantizer, InputStatistics

_ROWS_AT_A_TIME = 1024
SHARED = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
"""Linear layers that read the same inputs as another."""


@dataclasses.dataclass(frozen=True)
class CalibrationSettings:
    """What a recipe says about calibration.

    Attributes:
        commands: Number of generated commands.
        text: File of general text, or None.
        passages: Number of passages of it.
        tokens: Length of a passage.
        seed: Of the commands, and of the choice of passages.
    """

    commands: int = 128
    text: Path | None = None
    passages: int = 16
    tokens: int = 256
    seed: int = 1


@dataclasses.dataclass(frozen=True)
class Passages:
    """Tokenized calibration text: continuations of one beginning.

    Attributes:
        prefix: Tokens that every continuation follows, maybe none.
        texts: The continuations, none of which sees another.
    """

    prefix: Sequence[int]
    texts: Sequence[Sequence[int]]


CommandSource = Callable[[Path, CalibrationSettings], Sequence[Passages]]
"""Makes commands with their answers, tokenized as at run time, for a bundle's folder, which holds
``tokenizer.json`` and ``skills.yaml``."""


@dataclasses.dataclass(frozen=True)
class Activations:
    """What a recipe says about rounding the inputs of layers.

    Attributes:
        method: ``static``: one range for all tokens, from calibration; ``dynamic``: each token's.
        type: ``int`` or ``fp8``.
        bits: Width of a code.
        percentile: Share of the tokens, in percent, that the static range holds entirely.
    """

    method: str
    type: str
    bits: int
    percentile: float

    def fit(self, inputs: InputStatistics | None) -> InputQuantizer:
        """Make the quantizer of a layer's inputs."""
        if self.method == "dynamic":
            return InputQuantizer(self.bits, None)
        assert inputs is not None
        largest = float(torch.quantile(inputs.token_largest, self.percentile / 100))
        limit = E4M3_LIMIT if self.type == "fp8" else 2 ** (self.bits - 1) - 1
        return InputQuantizer(self.bits, max(largest, 1e-30) / limit, floating=self.type == "fp8")


def read_text(settings: CalibrationSettings, tokenizer_json: Path) -> list[Passages]:
    """Choose passages of a general text.

    Raises:
        RecipeError: The file cannot be read or is too short.
    """
    if settings.text is None:
        return []
    try:
        text = settings.text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"the calibration text {settings.text} cannot be read: {error}"
        ) from error
    tokens = tokenizers.Tokenizer.from_file(str(tokenizer_json)).encode(text).ids
    length = min(settings.tokens, len(tokens))
    if length < 2:
        raise RecipeError(f"calibration.text {settings.text} is too short")
    starts = range(0, len(tokens) - length + 1, length)
    chosen = random.Random(settings.seed).sample(starts, min(settings.passages, len(starts)))
    return [Passages((), [tokens[start : start + length] for start in sorted(chosen)])]


class HiddenStates:
    """The calibration text between two layers of a decoder."""

    def __init__(self, decoder: Decoder, passages: Sequence[Passages]) -> None:
        """Look the tokens up in the embedding.

        Raises:
            RecipeError: There is no text.
        """
        if not any(part.texts for part in passages):
            raise RecipeError("there is no calibration text; give calibration.commands or .text")
        self._decoder = decoder
        embed = decoder.embed
        limit = decoder.config.context_length
        with torch.inference_mode():
            self._states: list[tuple[Tensor, list[Tensor]]] = [
                (
                    embed(torch.tensor(list(part.prefix), dtype=torch.long)),
                    [
                        embed(torch.tensor(list(text[: limit - len(part.prefix)])))
                        for text in part.texts
                    ],
                )
                for part in passages
            ]

    @property
    def texts(self) -> list[Tensor]:
        """What the last layer gave for each continuation, ``[n, hidden]``."""
        return [x for _, texts in self._states for x in texts]

    def advance(self, index: int) -> None:
        """Run a layer and keep what comes out."""
        self._states = self._run(index)

    def observe(self, index: int) -> dict[str, InputStatistics]:
        """Learn about the inputs of a layer's linear layers, by their name in the layer."""
        layer = self._decoder.model.layers[index]
        collectors: dict[str, _Collector] = {}
        handles = []
        for name, module in layer.named_modules():
            leaf = name.rpartition(".")[2]
            if isinstance(module, nn.Linear) and leaf not in SHARED:
                collectors[leaf] = _Collector(module.in_features)
                handles.append(module.register_forward_pre_hook(collectors[leaf].see))
        try:
            self._run(index)
        finally:
            for handle in handles:
                handle.remove()
        found = {leaf: collector.statistics() for leaf, collector in collectors.items()}
        return found | {leaf: found[same] for leaf, same in SHARED.items()}

    @torch.inference_mode()
    def _run(self, index: int) -> list[tuple[Tensor, list[Tensor]]]:
        run = self._decoder.run_layer
        after = []
        for prefix, texts in self._states:
            cache = None
            if len(prefix):
                prefix, cache = run(index, prefix, None)
            after.append((prefix, [run(index, x, cache)[0] for x in texts]))
        return after


class _Collector:
    """Sums over the inputs of a linear layer."""

    def __init__(self, size: int) -> None:
        self._products = torch.zeros(size, size)
        self._largest = torch.zeros(size)
        self._sum = torch.zeros(size)
        self._tokens: list[Tensor] = []
        self._waiting: list[Tensor] = []

    def see(self, module: nn.Module, arguments: tuple[Tensor]) -> None:
        self._waiting.append(arguments[0])
        if sum(map(len, self._waiting)) >= _ROWS_AT_A_TIME:
            self._add()

    def _add(self) -> None:
        """Add what was seen: many short texts at once, since each sum is over whole matrices."""
        x = torch.cat(self._waiting)
        self._waiting.clear()
        magnitude = x.abs()
        self._products.addmm_(x.T, x)
        self._largest = torch.maximum(self._largest, magnitude.amax(0))
        self._sum += magnitude.sum(0)
        self._tokens.append(magnitude.amax(1))

    def statistics(self) -> InputStatistics:
        if self._waiting:
            self._add()
        tokens = torch.cat(self._tokens)
        return InputStatistics(
            hessian=self._products / len(tokens),
            largest=self._largest,
            mean_abs=self._sum / len(tokens),
            token_largest=tokens,
        )
