"""Bundles by methods that are calibrated, and the commands that they are calibrated with."""

from __future__ import annotations

from pathlib import Path
import shutil
from typing import Any

import pytest
from tiny_models import build_tiny, make_folder, recipe_text, SKILLS

from quant_llm_ros.cli.calibration import command_source, reference_source
from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.engine.tokenizer import Tokenizer
from quant_llm_ros.errors import RecipeError
from quant_llm_ros.quantize.build import build_bundle, CheckedCheckpoints
from quant_llm_ros.quantize.calibration import CalibrationSettings
from quant_llm_ros.quantize.recipe import Recipe
from quant_llm_ros.quantize.reference import SENTENCES

TEXT: dict[str, Any] = {"commands": 0, "text": "text.txt", "tokens": 16, "passages": 4}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("checkpoint") / "llama")


@pytest.mark.parametrize(
    ("quantize", "most_bits"),
    [
        ({"method": "gptq", "bits": 4, "block": 32}, 5.2),
        ({"method": "smoothquant", "activations": {"method": "static"}}, 8.7),
        ({"method": "cluster", "bits": 3}, 3.7),
    ],
)
def test_bundle(
    tmp_path: Path, checkpoint: Path, quantize: dict[str, Any], most_bits: float
) -> None:
    (tmp_path / "text.txt").write_text(" ".join(SENTENCES))
    bundle = build_tiny(tmp_path, checkpoint, quantize=quantize, calibration=TEXT)
    assert bundle.figures["bits_per_weight"] < most_bits
    without = 15 if quantize["method"] == "cluster" else 0
    assert bundle.figures["weights_without_kernel"] == without


def test_a_checkpoint_that_was_checked_is_not_checked_again(
    tmp_path: Path, checkpoint: Path
) -> None:
    """Another error in place of the measured one shows where the figure came from."""
    (tmp_path / "tiny.yaml").write_text(recipe_text(checkpoint))
    recipe = Recipe.load(tmp_path / "tiny.yaml")
    checked: CheckedCheckpoints = {}

    def build() -> Bundle:
        return build_bundle(
            recipe,
            tmp_path / "bundle",
            skills=SKILLS,
            progress=lambda stage, part: None,
            checked=checked,
        )

    first = build()
    opened, error = checked[recipe.checkpoint]
    assert first.figures["decoder_relative_error"] == pytest.approx(error, rel=1e-3)
    checked[recipe.checkpoint] = opened, 0.125
    again = build()
    assert again.figures["decoder_relative_error"] == 0.125
    for name in ("model.onnx", "model.onnx.data", "tokenizer.json"):
        assert again.files[name].sha256 == first.files[name].sha256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is calibrated with generated commands; build it with `quant_llm quantize`"),
        ("", "text.txt is too short"),
        ("\udcff", "text.txt cannot be read"),
    ],
)
def test_no_text_no_bundle(
    tmp_path: Path, checkpoint: Path, text: str | None, message: str
) -> None:
    changes: dict[str, Any] = {"quantize": {"method": "awq", "bits": 4, "block": 32}}
    if text is not None:
        (tmp_path / "text.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
        changes["calibration"] = TEXT
    with pytest.raises(RecipeError, match=message):
        build_tiny(tmp_path, checkpoint, **changes)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.bundle
def test_commands_are_those_of_the_run_time(tmp_path: Path, bundle_path: Path) -> None:
    shutil.copy(bundle_path / "tokenizer.json", tmp_path)
    shutil.copy(SKILLS, tmp_path / "skills.yaml")
    make = command_source(examples=False)
    (passages,) = make(tmp_path, CalibrationSettings(commands=12, seed=4))
    assert make(tmp_path, CalibrationSettings(commands=12, seed=4)) == [passages]
    assert make(tmp_path, CalibrationSettings(commands=12, seed=5)) != [passages]
    tokenizer = Tokenizer(tmp_path / "tokenizer.json")
    assert len(passages.texts) == 12
    assert "Skills:" in tokenizer.decode(list(passages.prefix))
    assert any("(" in tokenizer.decode(list(text)) for text in passages.texts)


@pytest.mark.bundle
@pytest.mark.parametrize("examples", [True, False])
def test_reference_texts_are_commands_of_the_skills(
    tmp_path: Path, bundle_path: Path, examples: bool
) -> None:
    """Behind the prompt of the run time, with their answers."""
    shutil.copy(bundle_path / "tokenizer.json", tmp_path)
    shutil.copy(SKILLS, tmp_path / "skills.yaml")
    passages = reference_source(examples=examples)(tmp_path)
    tokenizer = Tokenizer(tmp_path / "tokenizer.json")
    prefix = tokenizer.decode(list(passages.prefix))
    texts = [tokenizer.decode(list(text)) for text in passages.texts]
    assert "Skills:" in prefix
    assert 8 <= len(texts) == len(set(texts)) <= 12
    assert sum("(" in text for text in texts) >= len(texts) - 1
