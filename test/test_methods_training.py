"""Quantization-aware training on tiny models: straight through, learned steps, frozen weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
from safetensors.torch import load_file
import torch
from torch import nn, Tensor
import yaml

from quant_llm_ros.errors import RecipeError
from quant_llm_ros.quantize.adapter import Adapter
from quant_llm_ros.quantize.recipe import Recipe
from quant_llm_ros.training.qat import (
    _Lsq,
    distillation_loss,
    make_simulation,
    recipe_for_training,
    round_once,
)
from quant_llm_ros.training.rounding import lora_layers
from quant_llm_ros.training.settings import FinetuneSettings

LSQ: dict[str, Any] = {"method": "learned", "bits": 2, "block": 32, "range": "mse"}
BINARY: dict[str, Any] = {"method": "binary", "planes": 1, "block": 32}


class Tiny(nn.Module):
    """Two linear layers under the names of a transformers model."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Linear(64, 64, bias=False)
        self.second = nn.Linear(64, 64, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def recipe(folder: Path, quantize: dict[str, Any]) -> Recipe:
    path = folder / "recipe.yaml"
    settings = {"name": "t", "checkpoint": {"path": "x"}, "context_length": 64}
    path.write_text(yaml.safe_dump({**settings, "quantize": quantize}))
    return Recipe.load(path)


def adapted() -> Any:
    config = peft.LoraConfig(r=16, lora_alpha=32, target_modules=["first", "second"])
    return peft.get_peft_model(Tiny(), config)


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
    tmp_path: Path, method: str, quantize: dict[str, Any], rate: float, share: float
) -> None:
    """The answers of the unquantized model are learnt, and the recipe gives the trained model."""
    teacher, model = Tiny(), adapted()
    chosen = recipe_for_training(recipe(tmp_path, quantize), method)
    simulation = make_simulation(method, model, chosen)
    x = torch.randn(256, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = teacher(x)
        torch.testing.assert_close(model(x), wanted)  # nothing is rounded yet
    simulation.refresh()
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(
        [{"params": weights}, {"params": simulation.parameters(), "lr": 1e-3}], lr=rate
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
    for name, layer in lora_layers(model).items():
        merged = layer.base_layer.weight.data + layer.get_delta_weight("default")
        quantizer = final.quantizer(name)
        assert quantizer is not None
        built.get_parameter(name).data = quantizer(merged.detach()).dequantize()
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
    quantizer = chosen.quantizer("first.weight")
    assert quantizer is not None
    again = quantizer(model.first.weight.data).dequantize()
    torch.testing.assert_close(again, model.first.weight.data)
    simulation = make_simulation("frozen", model, chosen)
    simulation.refresh()
    assert simulation.parameters() == []


def test_distillation_is_a_divergence() -> None:
    generator = torch.Generator().manual_seed(1)
    one, other = (torch.randn(5, 30, generator=generator) for _ in range(2))
    assert float(distillation_loss(one, one + 3.0)) == pytest.approx(0, abs=1e-6)
    assert float(distillation_loss(one, other)) > 0.1


def test_signed_steps_keep_their_sign(tmp_path: Path) -> None:
    settings = {**LSQ, "range": "signed"}
    make_simulation("lsq", adapted(), recipe(tmp_path, settings)).save(tmp_path)
    steps = load_file(tmp_path / "steps.safetensors")["first.weight"]
    assert 0.3 < float((steps < 0).float().mean()) < 0.7


def test_learned_steps_are_written_positive(tmp_path: Path) -> None:
    simulation = make_simulation("lsq", adapted(), recipe(tmp_path, LSQ))
    simulation.parameters()[0].data.neg_()
    simulation.save(tmp_path)
    steps = load_file(tmp_path / "steps.safetensors")
    assert sorted(steps) == ["first.weight", "second.weight"]
    assert all(bool((tensor > 0).all()) for tensor in steps.values())


def test_a_recipe_may_name_steps_that_are_not_there_yet(tmp_path: Path) -> None:
    chosen = recipe(tmp_path, {**LSQ, "steps": "not_yet.safetensors"})
    weight = torch.randn(4, 64)
    quantizer = recipe_for_training(chosen, "lsq").quantizer("first.weight")
    assert quantizer is not None
    assert quantizer(weight).bits == 2
    with pytest.raises(ValueError, match="cannot be read"):
        chosen.quantizer("first.weight")(weight)  # type: ignore[misc]


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


def test_adapters_on_top_of_each_other_are_their_sum(tmp_path: Path) -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(4))
    folders, expected = [], weight
    for rank, name in ((4, "one"), (2, "other")):
        config = peft.LoraConfig(r=rank, lora_alpha=16, target_modules=["first", "second"])
        model = peft.get_peft_model(Tiny(), config)
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                nn.init.normal_(parameter, std=0.1)
        folders.append(tmp_path / name)
        model.save_pretrained(folders[-1])
        expected = Adapter.load(folders[-1]).merge("first.weight", expected)
    both = Adapter.load_all(folders)
    assert both is not None
    torch.testing.assert_close(both.merge("first.weight", weight), expected)
    alone = Adapter.load(folders[0])
    assert both.sha256 != alone.sha256
    single = Adapter.load_all(folders[:1])
    assert single is not None
    assert single.sha256 == alone.sha256
    assert Adapter.load_all([]) is None
