"""Training all weights of a tiny model for two bits: from settings to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tiny_models import CART_SKILLS, make_folder, recipe_text
import torch
import yaml

from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.engine.tokenizer import Tokenizer
from quant_llm_ros.errors import CheckpointError
from quant_llm_ros.quantize.adapter import Adapter
from quant_llm_ros.quantize.build import build_bundle
from quant_llm_ros.quantize.recipe import Recipe
from quant_llm_ros.training.finetune import Finetuner, Report
from quant_llm_ros.training.lessons import Lessons
from quant_llm_ros.training.qat import recipe_for_training
from quant_llm_ros.training.reconstruction import LayerReport
from quant_llm_ros.training.settings import FinetuneSettings

CONTEXT = 2048
SETTINGS: dict[str, Any] = {
    "recipe": "recipe.yaml",
    "method": "lsq",
    "train": "weights",
    "layerwise": 2,
    "layerwise_groups": 2,
    "distill": 0.5,
    "steps": 4,
    "group_size": 2,
    "held_out_groups": 1,
    "rounding_from": 0.0,
    "report_every": 2,
}


class Interrupted(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a checkpoint, its recipe, the skills and the settings."""
    made = tmp_path_factory.mktemp("finetune")
    model = make_folder(made / "llama", max_position_embeddings=CONTEXT)
    quantize = {
        "method": "learned",
        "bits": 2,
        "range": "mse",
        "steps": "trained/steps.safetensors",
    }
    (made / "recipe.yaml").write_text(
        recipe_text(model, adapter="trained", quantize=quantize, context_length=CONTEXT)
    )
    (made / "skills.yaml").write_text(CART_SKILLS)
    (made / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    return made


def finetuner(folder: Path, output: str, settings: str = "settings.yaml") -> Finetuner:
    return Finetuner(
        FinetuneSettings.load(folder / settings),
        folder / output,
        skills=SkillRegistry.load(folder / "skills.yaml"),
        own_registry=True,
    )


def ignore(_: object) -> None:
    """Take a report."""


def test_a_run_that_was_interrupted_ends_with_the_same_weights(folder: Path) -> None:
    """Layers are trained once: what they learnt is in the state that is gone on with."""
    layers: list[LayerReport] = []
    finetuner(folder, "trained").train(ignore, ignore, layers.append)
    assert [report.layer for report in layers] == [0, 1]

    def interrupt(report: Report) -> None:
        assert report.rounding
        raise Interrupted

    with pytest.raises(Interrupted):
        finetuner(folder, "again").train(ignore, interrupt)
    assert not (folder / "again" / "adapter_model.safetensors").exists()
    layers.clear()
    trainer = finetuner(folder, "again")
    assert trainer.resume()
    assert trainer.step == 2
    trainer.train(ignore, ignore, layers.append)
    assert layers == []
    for name in ("adapter_model.safetensors", "steps.safetensors"):
        one, other = (load_file(folder / run / name) for run in ("trained", "again"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_gpu_reads_what_a_cpu_reads(folder: Path) -> None:
    settings = FinetuneSettings.load(folder / "settings.yaml")
    tokenizer = Tokenizer(folder / "llama" / "tokenizer.json")
    skills = SkillRegistry.load(folder / "skills.yaml")
    lessons = Lessons(settings, tokenizer, skills, own_registry=True)
    here, there = (list(lessons.of_steps(1, device)) for device in ("cpu", "cuda"))
    assert len(here) == len(there) == SETTINGS["steps"] - 1
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.labels, other.labels)
        assert one.prompt_length == other.prompt_length


def test_the_bundle_has_the_weights_that_were_trained(folder: Path) -> None:
    """Code for code; and no model is there that they could be compared with."""
    trainer = finetuner(folder, "trained")
    if not trainer.resume():
        trainer.train(ignore, ignore)
    in_training = trainer._rounding.weights()  # type: ignore[attr-defined]
    adapter = Adapter.load(folder / "trained")
    assert len(adapter.whole) == 2 * 7
    recipe = Recipe.load(folder / "recipe.yaml")
    for name, weight in adapter.whole.items():
        quantizer = recipe.quantizer(name)
        assert quantizer is not None
        quantized = quantizer(weight.float())
        assert torch.equal(quantized.dequantize(), in_training[name])
        assert len(quantized.codes.unique()) == 4
    bundle = build_bundle(
        recipe, folder / "bundle", skills=folder / "skills.yaml", progress=lambda stage, part: None
    )
    assert "kl_divergence_nats" not in bundle.figures
    assert bundle.figures["bits_per_weight"] < 3.3


def test_signs_are_trained_from_settings_to_a_bundle(folder: Path) -> None:
    recipe = recipe_text(
        folder / "llama",
        adapter="signs",
        quantize={"method": "binary", "planes": 1},
        context_length=CONTEXT,
    )
    (folder / "signs.yaml").write_text(recipe)
    changes = {"recipe": "signs.yaml", "method": "ste", "steps": 1, "layerwise": 1}
    (folder / "signs_settings.yaml").write_text(yaml.safe_dump({**SETTINGS, **changes}))
    trainer = finetuner(folder, "signs", "signs_settings.yaml")
    trainer.train(ignore, ignore)
    adapter = Adapter.load(folder / "signs")
    made = Recipe.load(folder / "signs.yaml")
    for name, weight in trainer._rounding.weights().items():  # type: ignore[attr-defined]
        quantizer = made.quantizer(name)
        assert quantizer is not None
        saved, trained = quantizer(adapter.whole[name].float()), quantizer(weight)
        assert torch.equal(saved.codes, trained.codes)
        torch.testing.assert_close(saved.scales, trained.scales, rtol=1e-3, atol=1e-6)


def test_layers_are_trained_under_an_adapter_too_and_rounding_waits(folder: Path) -> None:
    """Layers learn by themselves, then the model is as it was until rounding begins."""
    settings = {k: v for k, v in SETTINGS.items() if k != "train"}
    changes = {"rank": 2, "alpha": 4, "rounding_from": 0.5, "report_every": 1, "layerwise": 1}
    (folder / "adapter.yaml").write_text(yaml.safe_dump({**settings, **changes}))
    reports: list[Report] = []
    layers: list[LayerReport] = []
    finetuner(folder, "adapter", "adapter.yaml").train(ignore, reports.append, layers.append)
    assert len(layers) == 2
    assert [report.rounding for report in reports] == [False, False, True, True]
    assert len(Adapter.load(folder / "adapter").pairs) == 2 * 7


def test_what_was_trained_for_its_bits_is_no_beginning(folder: Path) -> None:
    whole = folder / "whole"
    whole.mkdir()
    (whole / "adapter_config.json").write_text('{"kind": "whole_weights"}')
    save_file({"x.weight": torch.zeros(2, 2)}, whole / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="name the adapter that they were trained from"):
        Finetuner(
            FinetuneSettings.load(folder / "settings.yaml"),
            folder / "more",
            skills=SkillRegistry.load(folder / "skills.yaml"),
            start=whole,
        )
    (folder / "corrected.yaml").write_text(recipe_text(folder / "llama", correction="whole"))
    with pytest.raises(CheckpointError, match="the correction "):
        build_bundle(
            Recipe.load(folder / "corrected.yaml"),
            folder / "corrected",
            skills=folder / "skills.yaml",
            progress=lambda stage, part: None,
        )


def test_the_settings_of_the_package_fit_their_recipes(repository: Path) -> None:
    """Every settings file loads, and what it trains goes where its recipe looks for it."""
    files = sorted((repository / "config" / "finetune").glob("*.yaml"))
    assert len(files) > 4
    for file in files:
        settings = FinetuneSettings.load(file)
        recipe = recipe_for_training(Recipe.load(settings.recipe), settings.method)
        if settings.train == "weights":
            output = repository / "adapters" / settings.recipe.stem
            assert [path.resolve() for path in recipe.adapters] == [output.resolve()]
            text = settings.recipe.read_text()
            assert f"config/finetune/{file.name}" in text
            assert f"--output adapters/{output.name}" in text.replace("\n# ", " ")
