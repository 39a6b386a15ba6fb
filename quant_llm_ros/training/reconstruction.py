"""Layers that learn one by one to give what the unquantized ones give.

A whole model in 2 bits is so wrong at first that its answers say little about what to change. A
single layer's own output says it at once. Chen et al. 2024, «EfficientQAT» (arXiv:2407.11062),
section 3.2 (block-wise training of all parameters); Li et al. 2021, «BRECQ» (arXiv:2102.05426),
section 3.2. Each layer reads what the quantized layers before it give, and its target is what the
unquantized layers give at this place, all behind the embedding as it will be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import random
from typing import Any

import torch
from torch import nn, Tensor

from quant_llm_ros.errors import CheckpointError
from quant_llm_ros.training.optimizer import falling, make_optimizer, take_step
from quant_llm_ros.training.packing import Pack
from quant_llm_ros.training.qat import StraightThrough

_DTYPE = torch.bfloat16


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """How well a layer learnt.

    Attributes:
        layer: Its index.
        before: Squared error of its output for a token, as a share of the output's square, when
            its weights are rounded and not trained yet; mean over all tokens of a sequence, then
            over the sequences.
        after: The same at the end of its training.
    """

    layer: int
    before: float
    after: float


def train_layers(
    model: Any,
    simulation: StraightThrough,
    packs: Sequence[Pack],
    *,
    passes: int,
    learning_rate: float,
    seed: int,
    device: str,
    on_layer: Callable[[LayerReport], None],
) -> None:
    """Train the layers of a transformers model, from the first to the last.

    Args:
        model: Its trainable parameters and those of the simulation are changed.
        simulation: Rounds the weights; it is paused afterwards.
        packs: What the layers read.
        passes: How often each layer reads all of it.
        learning_rate: Highest rate of AdamW; it falls as a cosine in every layer.
        seed: Of the order.
        device: ``cpu`` or ``cuda``.
        on_layer: Told of every layer that is finished.

    Raises:
        CheckpointError: An error is not finite: the learning rate is too high.
    """
    order = random.Random(seed)
    batches = [_inputs(model, batch.to(device)) for batch in packs]
    wanted = [batch.states for batch in batches]
    steps = simulation.parameters()
    for index, layer in enumerate(model.model.layers):
        simulation.pause()
        wanted = _outputs(layer, batches, wanted, device)
        simulation.refresh()
        places = list(range(len(batches)))
        before = _mean_error(_outputs(layer, batches, None, device), wanted)
        weights = [p for p in layer.parameters() if p.requires_grad]
        own = [step for name, step in steps.items() if name.startswith(f"model.layers.{index}.")]
        optimizer = make_optimizer(weights, own)
        for number in range(passes):
            order.shuffle(places)
            for count, place in enumerate(places):
                loss = _error(_output(layer, batches[place], None, device), wanted[place])
                if not torch.isfinite(loss):
                    raise CheckpointError(
                        f"the error of layer {index} is {float(loss)}; lower layerwise_rate"
                    )
                loss.backward()
                done = (number + count / len(places)) / passes
                take_step(optimizer, learning_rate * falling(done))
        outputs = _outputs(layer, batches, None, device)
        on_layer(LayerReport(index, before, _mean_error(outputs, wanted)))
        batches = [
            dataclasses.replace(batch, states=states)
            for batch, states in zip(batches, outputs, strict=True)
        ]
    simulation.pause()


@dataclasses.dataclass(frozen=True)
class _Batch:
    """What a layer is called with: hidden states ``[1, n, hidden]`` and everything else."""

    states: Tensor
    more: dict[str, Any]


class _Caught(Exception):
    """The first layer's inputs are known; the rest of the pass is of no use."""


def _inputs(model: Any, pack: Pack) -> _Batch:
    """Find out what the first layer is called with."""
    caught: list[_Batch] = []

    def catch(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        caught.append(_Batch(given[0], dict(named)))
        raise _Caught

    handle = model.model.layers[0].register_forward_pre_hook(catch, with_kwargs=True)
    try:
        with torch.no_grad():
            model.model(
                input_ids=pack.tokens[None],
                position_ids=pack.positions[None],
                pack=pack,
                use_cache=False,
            )
    except _Caught:
        pass
    finally:
        handle.remove()
    return caught[0]


def _output(layer: nn.Module, batch: _Batch, states: Tensor | None, device: str) -> Tensor:
    """Give a layer's output for a batch, or for other states in its place."""
    with torch.autocast(device, dtype=_DTYPE):
        result = layer(batch.states if states is None else states, **batch.more)
    output: Tensor = result[0] if isinstance(result, tuple) else result
    return output.float()


@torch.no_grad()
def _outputs(
    layer: nn.Module, batches: Sequence[_Batch], states: Sequence[Tensor] | None, device: str
) -> list[Tensor]:
    others = states or [None] * len(batches)
    return [_output(layer, *pair, device) for pair in zip(batches, others, strict=True)]


def _error(output: Tensor, wanted: Tensor) -> Tensor:
    """Relative squared error, each token counting alike, however large its states are."""
    error = (output - wanted).square().sum(-1) / wanted.square().sum(-1)
    return error.mean()


def _mean_error(outputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    errors = [float(_error(*pair)) for pair in zip(outputs, wanted, strict=True)]
    return sum(errors) / len(errors)
