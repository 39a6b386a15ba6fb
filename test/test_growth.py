"""How the time of a decision grows: what is measured, on a tiny model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from tiny_models import build_tiny, make_folder

from quant_llm_ros.benchmark import growth
from quant_llm_ros.benchmark.growth import AXES, Point, registry_of
from quant_llm_ros.benchmark.picture import draw_growth
from quant_llm_ros.benchmark.runner import Settings
from quant_llm_ros.cli import growth as command
from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.engine.onnxruntime_engine import OnnxRuntimeEngine
from quant_llm_ros.quantize.decoder import DecoderConfig
from quant_llm_ros.quantize.variants import of_shape, SHAPES, with_context


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("growth")
    model = make_folder(folder / "model", max_position_embeddings=4096)
    return build_tiny(folder, model, context_length=4096)


@pytest.mark.parametrize("count", [10, 16, 500])
def test_registries_of_any_size(repository: Path, count: int) -> None:
    registry = registry_of(repository / "config/skills/service_robot.yaml", count)
    assert len(registry.skills) == count
    assert registry.names[0] == "move"
    assert registry.names[-1] == "stop"


def test_a_longer_context_changes_no_logits(bundle: Bundle, tmp_path: Path) -> None:
    longer = with_context(bundle, tmp_path / "long", 6144)
    assert longer.model.context_length == 6144
    tokens = list(range(30, 90))
    logits = []
    for one in (bundle, longer):
        engine = OnnxRuntimeEngine.load(one, threads=1)
        logits.append(engine.append(tokens))
        engine.close()
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-4)
    engine = OnnxRuntimeEngine.load(longer, threads=1)
    for _ in range(40):
        engine.append(tokens * 2)  # 4,800: more than the bundle's own context
    assert np.isfinite(engine.append([5])).all()
    engine.close()


def test_a_model_of_another_shape(bundle: Bundle, tmp_path: Path) -> None:
    assert SHAPES["1B"].hidden_size == 2048
    shape = DecoderConfig(**{**vars(SHAPES["135M"]), "layers": 2, "hidden_size": 128,
                             "intermediate_size": 256, "attention_heads": 2,
                             "key_value_heads": 1})  # fmt: skip
    made = of_shape(bundle, tmp_path / "made", shape)
    assert (made.model.layers, made.model.hidden_size) == (2, 128)
    engine = OnnxRuntimeEngine.load(made, threads=1)
    logits = engine.append([5, 6, 7])
    assert logits.shape == (1, bundle.model.vocab_size)
    assert np.isfinite(logits).all()
    assert logits.std() > 0
    engine.close()


@pytest.mark.parametrize(("axis", "count"), [("places", 100), ("clients", 3)])
def test_a_point(bundle: Bundle, axis: str, count: int) -> None:
    measure, _, _ = AXES[axis]
    settings = Settings(str(bundle.path), None, 1)
    (point,) = measure(settings, [count], 1)
    assert point.at == count
    assert 0 < point.total_ms["p50"] <= point.total_ms["p90"]
    assert point.passes >= 1
    assert set(point.stages_ms) >= {"grammar", "prefill"}


def test_the_program(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fewer = {"words": (growth.words, (5, 40), "words"), "skills": (growth.skills, (10,), "skills")}
    monkeypatch.setattr(command, "AXES", fewer)
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(
        ["growth", f"--bundle={bundle.path}", "--rounds=1", "--threads=1", "--over=words,skills",
         f"--output={tmp_path / 'g.json'}"]
    )  # fmt: skip
    assert arguments.run(arguments) == 0
    assert "text to decision over words" in capsys.readouterr().out
    curves = json.loads((tmp_path / "g.json").read_text())
    assert [point["at"] for point in curves["words"]] == [5, 40]
    assert curves["skills"][0]["note"].startswith("whole prompt ")


def test_what_grows_must_be_known(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    with pytest.raises(SystemExit):
        parser.parse_args(["growth", "--over=skills,height"])
    assert "'height' is not one of skills" in capsys.readouterr().err


def test_curves_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    points = [Point(at, {"p50": at, "p90": 2 * at}) for at in (10.0, 20.0)]
    draw_growth({"skills": points, "models": [Point(135, {"p50": 9.0})]}, tmp_path / "g.png")
    assert (tmp_path / "g.png").read_bytes().startswith(b"\x89PNG")
