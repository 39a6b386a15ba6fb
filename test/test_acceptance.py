"""What a bundle knows about itself: the evaluation it carries, and its recipe's part."""

from __future__ import annotations

import json
from pathlib import Path
import shutil

import pytest
import yaml

from quant_llm_ros.command.acceptance import accept
from quant_llm_ros.engine.bundle import add_figures, Bundle
from quant_llm_ros.errors import BundleError, DatasetError, RecipeError


def test_rows_are_those_of_the_held_out_sets(repository: Path) -> None:
    """What the bundle is judged by is a part of the sets that nothing is trained on."""
    known = set()
    for path in (repository / "test" / "data").glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            known.add(json.loads(line)["text"])
    rows = (repository / "config" / "evaluation" / "service_robot.jsonl").read_text()
    texts = [json.loads(line)["text"] for line in rows.splitlines()]
    assert len(texts) >= 100
    assert set(texts) <= known


@pytest.mark.bundle
def test_the_default_bundle_was_evaluated(bundle_path: Path) -> None:
    """Its figures are there, believable, and hardly below the unquantized model's."""
    figures = Bundle.load(bundle_path, verify=False).figures
    assert 0.7 < figures["accuracy"] <= 1.0
    assert figures["accuracy"] > figures["accuracy_unquantized"] - 0.05
    assert figures["calibration_error"] < 0.1
    report = json.loads((bundle_path / "report" / "evaluation.json").read_text())
    assert report["accuracy"] == figures["accuracy"]
    assert sum(c["n"] for c in report["quantized"]["classes"].values()) > 50
    assert "What was mistaken" in (bundle_path / "report" / "evaluation.md").read_text()


@pytest.mark.bundle
def test_an_evaluation_is_written_into_the_bundle(bundle_path: Path, tmp_path: Path) -> None:
    """A few sentences are enough to see accuracy, temperature and report change."""
    bundle = Path(shutil.copytree(bundle_path, tmp_path / "bundle"))
    rows = [
        {"text": "go to the kitchen", "status": "ACCEPTED", "class": "plain",
         "calls": [{"skill": "go_to", "args": {"place": {"any_of": ["kitchen"]}}}]},
        {"text": "go to the kitchen", "status": "ACCEPTED", "class": "impossible",
         "calls": [{"skill": "dock", "args": {}}]},
    ]  # fmt: skip
    dataset = tmp_path / "rows.jsonl"
    dataset.write_text("\n".join(map(json.dumps, rows)) + "\n")
    shares: list[float] = []
    accepted = accept(bundle, dataset, progress=shares.append)
    assert shares == [0.5, 1.0]
    assert accepted.figures["accuracy"] == 0.5
    assert accepted.temperature > 1.0  # it was far too sure of the wrong one
    assert "accuracy_unquantized" in accepted.figures  # what was known before stays
    report = json.loads((bundle / "report" / "evaluation.json").read_text())
    assert report["quantized"]["classes"] == {
        "plain": {"n": 1, "right": 1},
        "impossible": {"n": 1, "right": 0},
    }
    assert report["quantized"]["confusion"] == [{"meant": "dock", "decided": "go_to", "n": 1}]
    with pytest.raises(DatasetError, match="no rows"):
        accept(bundle, _empty(tmp_path), progress=shares.append)


@pytest.mark.bundle
def test_a_broken_temperature_is_refused(bundle_path: Path, tmp_path: Path) -> None:
    """A description that was edited by hand says what is wrong with it."""
    bundle = Path(shutil.copytree(bundle_path, tmp_path / "bundle"))
    add_figures(bundle, {"accuracy": 0.9}, temperature=1.5)
    description = yaml.safe_load((bundle / "bundle.yaml").read_text())
    assert (description["figures"]["accuracy"], description["temperature"]) == (0.9, 1.5)
    description["temperature"] = "hot"
    (bundle / "bundle.yaml").write_text(yaml.safe_dump(description))
    with pytest.raises(BundleError, match="temperature is 'hot'"):
        Bundle.load(bundle, verify=False)


def test_a_recipe_names_an_existing_dataset(repository: Path, tmp_path: Path) -> None:
    """A dataset that is not there is found before anything is built."""
    from quant_llm_ros.quantize.recipe import Recipe

    recipe = yaml.safe_load((repository / "config" / "recipes" / "default.yaml").read_text())
    recipe["accuracy"]["dataset"] = "nowhere.jsonl"
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(RecipeError, match=r"nowhere\.jsonl does not exist"):
        Recipe.load(path)


def _empty(folder: Path) -> Path:
    path = folder / "empty.jsonl"
    path.write_text("")
    return path
