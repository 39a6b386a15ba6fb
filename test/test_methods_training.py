"""Quantization-aware training on tiny models: straight through, learned steps, frozen weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
from safetensors.torch import load_file, save_file
import torch
from torch import nn, Tensor
import yaml

from quant_llm_ros.errors import CheckpointError, RecipeError
from quant_llm_ros.quantize.adapter import Adapter
from quant_llm_ros.quantize.recipe import Recipe
from quant_llm_ros.training.qat import (
    _Lsq,
    distillation_loss,
    make_simulation,
    recipe_for_training,
    round_once,
)
from quant_llm_ros.training.rounding import lora_layers, plain_layers
from quant_llm_ros.training.settings import FinetuneSettings

LSQ: dict[str, Any] = {"method": "learned", "bits": 2, "block": 32, "range": "mse"}
BINARY: dict[str, Any] = {"method": "binary", "planes": 1, "block": 32}


class Tiny(nn.Module):
    """Two linear layers under the names of a transformers model."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.up_proj = nn.Linear(64, 64, bias=False)
        self.down_proj = nn.Linear(64, 64, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(torch.tanh(self.up_proj(x)))


def recipe(folder: Path, quantize: dict[str, Any]) -> Recipe:
    path = folder / "recipe.yaml"
    settings = {"name": "t", "checkpoint": {"path": "x"}, "context_length": 64}
    path.write_text(yaml.safe_dump({**settings, "quantize": quantize}))
    return Recipe.load(path)


def adapted() -> Any:
    config = peft.LoraConfig(r=16, lora_alpha=32, target_modules=["up_proj", "down_proj"])
    return peft.get_peft_model(Tiny(), config)


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Give the weights that the layers have, by name, with what an adapter adds to them."""
    adapted_layers: dict[str, Any] = lora_layers(model)
    with torch.no_grad():
        if not adapted_layers:
            return {name: layer.weight.clone() for name, layer in plain_layers(model).items()}
        return {
            name: layer.base_layer.weight + layer.get_delta_weight("default")
            for name, layer in adapted_layers.items()
        }


@pytest.mark.parametrize("train", ["adapter", "weights"])
@pytest.mark.parametrize(
    ("method", "quantize", "rate", "share"),
    [
        ("ste", BINARY, 1e-3, 0.9),
        ("ste", {**LSQ, "method": "uniform"}, 1e-3, 0.9),
        ("lsq", LSQ, 4e-3, 0.6),
        ("ste", {**LSQ, "method": "uniform", "range": "signed"}, 1e-3, 0.9),
        ("lsq", {**LSQ, "range": "signed"}, 4e-3, 0.6),
    ],
)
def test_training_brings_the_rounded_model_back(
    tmp_path: Path, method: str, quantize: dict[str, Any], rate: float, share: float, train: str
) -> None:
    """The answers of the unquantized model are learnt, and the recipe gives the trained model."""
    teacher, model = Tiny(), adapted() if train == "adapter" else Tiny()
    if train == "weights" and method == "ste":
        rate = 3e-4  # weights near the middle between two codes swing at a higher one
    chosen = recipe_for_training(recipe(tmp_path, quantize), method)
    simulation = make_simulation(method, model, chosen)
    x = torch.randn(256, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = teacher(x)
        torch.testing.assert_close(model(x), wanted)  # nothing is rounded yet
    simulation.refresh()
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(
        [{"params": weights}, {"params": list(simulation.parameters().values()), "lr": 1e-3}],
        lr=rate,
    )
    losses = []
    for _ in range(120):
        loss = (model(x) - wanted).square().mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < share * losses[0]
    # Merge and quantize, as a build does.
    simulation.save(tmp_path)
    steps = {"steps": "steps.safetensors"} if method == "lsq" else {}
    final = recipe(tmp_path, {**quantize, **steps})
    built = Tiny()
    for name, weight in trained_weights(model).items():
        quantizer = final.quantizer(name)
        assert quantizer is not None
        built.get_parameter(name).data = quantizer(weight).dequantize()
    with torch.no_grad():
        torch.testing.assert_close(built(x), model(x), rtol=1e-3, atol=1e-4)


def test_gradients_of_learned_steps() -> None:
    """Equation 3 by hand: inside of the range the rounding error, outside the limit."""
    weight = torch.tensor([[0.2, -0.9, 0.125, 0.75]], requires_grad=True)
    step = torch.tensor([[0.25]], requires_grad=True)  # FP16 has it
    rounded = _Lsq.apply(weight, step, 2, False)
    torch.testing.assert_close(rounded, torch.tensor([[0.25, -0.5, 0.0, 0.25]]))
    rounded.backward(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
    torch.testing.assert_close(weight.grad, torch.tensor([[1.0, 0.0, 100.0, 0.0]]))
    expected = (1 - 0.8) - 20 + 100 * (0 - 0.5) + 1000
    torch.testing.assert_close(step.grad, torch.tensor([[expected / 2]]))


def test_gradients_of_a_negative_step() -> None:
    """With the step and its codes negated all is the same but the sign of the step's gradient."""
    weight = torch.tensor([[-0.2, 0.9, -0.125, -0.75]], requires_grad=True)
    step = torch.tensor([[-0.25]], requires_grad=True)
    rounded = _Lsq.apply(weight, step, 2, True)
    torch.testing.assert_close(rounded, torch.tensor([[-0.25, 0.5, 0.0, -0.25]]))
    rounded.backward(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
    torch.testing.assert_close(weight.grad, torch.tensor([[1.0, 0.0, 100.0, 0.0]]))
    expected = (1 - 0.8) - 20 + 100 * (0 - 0.5) + 1000
    torch.testing.assert_close(step.grad, torch.tensor([[expected / 2]]))


def test_frozen_weights_are_rounded_once(tmp_path: Path) -> None:
    model, quantize = Tiny(), {"method": "uniform", "bits": 4, "block": 32}
    chosen = recipe(tmp_path, quantize)
    round_once(model, chosen)
    quantizer = chosen.quantizer("up_proj.weight")
    assert quantizer is not None
    again = quantizer(model.up_proj.weight.data).dequantize()
    torch.testing.assert_close(again, model.up_proj.weight.data)
    simulation = make_simulation("frozen", model, chosen)
    simulation.refresh()
    assert simulation.parameters() == {}


def test_distillation_is_a_divergence() -> None:
    generator = torch.Generator().manual_seed(1)
    one, other = (torch.randn(5, 30, generator=generator) for _ in range(2))
    assert float(distillation_loss(one, one + 3.0)) == pytest.approx(0, abs=1e-6)
    assert float(distillation_loss(one, other)) > 0.1


def test_signed_steps_keep_their_sign(tmp_path: Path) -> None:
    settings = {**LSQ, "range": "signed"}
    make_simulation("lsq", adapted(), recipe(tmp_path, settings)).save(tmp_path)
    steps = load_file(tmp_path / "steps.safetensors")["up_proj.weight"]
    assert 0.3 < float((steps < 0).float().mean()) < 0.7


def test_learned_steps_are_written_positive(tmp_path: Path) -> None:
    simulation = make_simulation("lsq", adapted(), recipe(tmp_path, LSQ))
    simulation.parameters()["up_proj.weight"].data.neg_()
    simulation.save(tmp_path)
    steps = load_file(tmp_path / "steps.safetensors")
    assert sorted(steps) == ["down_proj.weight", "up_proj.weight"]
    assert all(bool((tensor > 0).all()) for tensor in steps.values())


def test_a_recipe_may_name_steps_that_are_not_there_yet(tmp_path: Path) -> None:
    chosen = recipe(tmp_path, {**LSQ, "steps": "not_yet.safetensors"})
    weight = torch.randn(4, 64)
    quantizer = recipe_for_training(chosen, "lsq").quantizer("up_proj.weight")
    assert quantizer is not None
    assert quantizer(weight).bits == 2
    with pytest.raises(ValueError, match="cannot be read"):
        chosen.quantizer("up_proj.weight")(weight)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("method", "quantize", "message"),
    [
        ("lsq", BINARY, "quantize with method learned, not BinaryQuantizer"),
        ("ste", {"method": "gptq"}, "looks at calibration text, and ste training cannot"),
    ],
)
def test_what_cannot_be_trained(
    tmp_path: Path, method: str, quantize: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        make_simulation(method, adapted(), recipe_for_training(recipe(tmp_path, quantize), method))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{recipe: r.yaml, method: lsqq}", "unknown method 'lsqq'; did you mean 'lsq'?"),
        ("{recipe: r.yaml, train: weight}", "unknown train 'weight'; did you mean 'weights'?"),
        ("{recipe: r.yaml, layerwise: 2}", "layerwise needs method ste or lsq, not rounding"),
        ("{recipe: r.yaml, layerwise: -1}", "layerwise must be at least 0"),
        ("{recipe: r.yaml, layerwise_rate: 1.0}", "layerwise_rate changes nothing with layerwise"),
        (
            "{recipe: r.yaml, train: weights, method: ste, rank: 8}",
            "rank changes nothing with train: weights",
        ),
        ("{recipe: r.yaml, train: weights}", "train: weights needs method ste or lsq"),
        ("{recipe: r.yaml, distill: 2}", "distill must be between 0 and 1"),
        ("{recipe: r.yaml, distill: 1, method: ste}", ""),
    ],
)
def test_settings(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    if not says:
        assert FinetuneSettings.load(path).method == "ste"
        return
    with pytest.raises(RecipeError, match=says.replace("?", r"\?")):
        FinetuneSettings.load(path)


def save_whole(folder: Path, weight: Tensor) -> Path:
    """Write a weight that was trained whole."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"kind": "whole_weights"}))
    save_file({"up_proj.weight": weight.half()}, folder / "adapter_model.safetensors")
    return folder


def test_weights_that_were_trained_whole(tmp_path: Path) -> None:
    """They take the place of the checkpoint's, in float32, and other weights stay."""
    weight = torch.randn(64, 64)
    adapter = Adapter.load(save_whole(tmp_path / "adapter", weight))
    merged = adapter.merge("up_proj.weight", torch.zeros(64, 64))
    torch.testing.assert_close(merged, weight.half().float())
    assert merged.dtype == torch.float32
    other = torch.zeros(64, 64)
    assert adapter.merge("down_proj.weight", other) is other
    with pytest.raises(CheckpointError, match="it was trained for another model"):
        adapter.merge("up_proj.weight", torch.zeros(32, 64))
    with pytest.raises(CheckpointError, match=r"^a search compares with the model before"):
        adapter.need_comparable("a search")


def test_adapters_on_top_of_each_other_are_their_sum(tmp_path: Path) -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(4))
    folders, expected = [], weight
    for rank, name in ((4, "one"), (2, "other")):
        config = peft.LoraConfig(r=rank, lora_alpha=16, target_modules=["up_proj", "down_proj"])
        model = peft.get_peft_model(Tiny(), config)
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                nn.init.normal_(parameter, std=0.1)
        folders.append(tmp_path / name)
        model.save_pretrained(folders[-1])
        expected = Adapter.load(folders[-1]).merge("up_proj.weight", expected)
    whole = save_whole(tmp_path / "whole", torch.full((64, 64), 2.0))
    replaced = Adapter.load_all([folders[0], whole, folders[1]])
    assert replaced is not None
    assert replaced.names == {"up_proj.weight", "down_proj.weight"}
    last = Adapter.load(folders[1]).merge("up_proj.weight", torch.full((64, 64), 2.0))
    torch.testing.assert_close(replaced.merge("up_proj.weight", weight), last)
    both = Adapter.load_all(folders)
    assert both is not None
    torch.testing.assert_close(both.merge("up_proj.weight", weight), expected)
    alone = Adapter.load(folders[0])
    assert both.sha256 != alone.sha256
    single = Adapter.load_all(folders[:1])
    assert single is not None
    assert single.sha256 == alone.sha256
    assert Adapter.load_all([]) is None
