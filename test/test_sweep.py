"""The sweep: rows are made once, failures are rows too, and every figure was measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
import shutil
import sys

import numpy as np
import pytest
from tiny_models import CART_SKILLS, make_folder, recipe_text

from quant_llm_ros.cli.sweep import find_recipes
from quant_llm_ros.errors import DatasetError, QuantLlmError, RecipeError
from quant_llm_ros.report import steps as stepping
from quant_llm_ros.report.measure import peak_memory_mb, What
from quant_llm_ros.report.perplexity import perplexity
from quant_llm_ros.report.sources import fingerprint
from quant_llm_ros.report.steps import StepError, Steps
from quant_llm_ros.report.sweep import load, Sweep
from quant_llm_ros.report.table import markdown

DATASET = (
    '{"text": "go to the kitchen", "calls": [{"skill": "go_to"}], "class": "command"}\n'
    '{"text": "stop", "calls": [{"skill": "stop"}], "class": "stop"}\n'
)


class Uniform:
    """An engine that thinks one token likely, twice as likely as each of the others."""

    vocab_size = 5
    context_length = 8

    def __init__(self) -> None:
        self.windows: list[list[int]] = []

    def rollback(self, length: int) -> None:
        assert length == 0
        self.windows.append([])

    def append(self, tokens, *, last=1, at=None):
        self.windows[-1] += tokens
        assert last == len(tokens)
        logits = np.zeros((last, self.vocab_size), np.float32)
        logits[:, 3] = math.log(2)
        return logits


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny model, its recipes, a dataset and a text."""
    path = tmp_path_factory.mktemp("tiny")
    (path / "model").mkdir()
    make_folder(path / "model", max_position_embeddings=2048)
    (path / "four.yaml").write_text(recipe_text(Path("model"), context_length=2048))
    wrong = {"method": "uniform", "bits": 4, "block": 256}
    (path / "wrong.yaml").write_text(
        recipe_text(Path("model"), quantize=wrong, context_length=2048)
    )
    (path / "device.yaml").write_text(
        recipe_text(
            Path("model"), target="tensorrt", quantize={"method": "none"}, context_length=2048
        )
    )
    (path / "set.jsonl").write_text(DATASET)
    (path / "skills.yaml").write_text(CART_SKILLS)
    (path / "text.txt").write_text("Bring me the red cup from the kitchen. " * 20)
    return path


def sweep(folder: Path, output: Path, **changes) -> Sweep:
    settings = {"text": str(folder / "text.txt"), "windows": 2, "window": 64, "threads": 1}
    what = What(datasets=(str(folder / "set.jsonl"),), **settings)
    return Sweep(output, what, folder / "skills.yaml", **changes)


def test_perplexity_is_that_of_the_formula():
    """Windows of 4 tokens, the first of each is not scored, and the last one is short."""
    engine = Uniform()
    found = perplexity(engine, [0, 3, 3, 0, 1, 3, 2, 0, 4, 3], window=4)
    # Scored: 3 3 0 | 3 2 0 | 3: four times probability 2/6, three times 1/6.
    assert found.tokens == 7
    assert found.value == pytest.approx(math.exp((4 * math.log(3) + 3 * math.log(6)) / 7))
    assert engine.windows[:3] == [[0, 3, 3], [1, 3, 2], [4]]


@pytest.mark.parametrize(
    ("tokens", "windows", "scored"), [(10, None, 8), (20, 1, 7), (17, None, 14), (2, None, 1)]
)
def test_perplexity_keeps_to_the_context(tokens, windows, scored):
    assert perplexity(Uniform(), [0] * tokens, window=100, windows=windows).tokens == scored


def test_perplexity_of_nothing():
    with pytest.raises(DatasetError, match="fewer than two tokens"):
        perplexity(Uniform(), [1])


def test_peak_memory_is_that_of_this_program():
    assert 1 < peak_memory_mb() < 1e6


def test_rows(folder, tmp_path):
    """Measured, failed, and for a device; a second run makes none of the good ones again."""
    recipes = [folder / f"{name}.yaml" for name in ("four", "wrong", "device")]
    said: list[str] = []
    made = sweep(folder, tmp_path)
    rows = list(made.run(recipes, lambda recipe, stage, part: said.append(recipe.stem)))
    assert [row["name"] for row in rows] == ["four", "wrong", "device"]
    good, failed, device = rows
    assert good["error"] is None
    assert good["build"]["bits_per_weight"] > 4
    figures = good["measured"]
    assert figures["decisions"] == 2
    assert 0.5 <= figures["skills_exact"] <= 1  # the stop guard needs no model
    assert figures["datasets"]["set"]["classes"]["stop"] == {"n": 1, "right": 1}
    assert 1 < figures["perplexity"] < 1e6
    assert figures["perplexity_tokens"] == 126
    # A process that serves holds the runtime; one that quantizes holds torch besides.
    assert 10 < figures["peak_memory_mb"] < good["build"]["peak_memory_mb"]
    for name in ("prefill_ms", "decode_ms", "decision_ms", "size_mb"):
        assert figures[name] > 0
    assert (figures["joules_per_decision"] is None) == (figures["energy_sensor"] == "no sensor")
    assert "64 inputs are not a multiple of the block, 256" in failed["error"]
    assert (failed["build"], failed["measured"]) == (None, None)
    assert device["build"]["target"] == "tensorrt"
    assert device["measured"] is None

    assert not list((tmp_path / "bundles").iterdir())
    document = load(tmp_path)
    assert document["rows"] == json.loads(json.dumps(rows))
    table = (tmp_path / "table.md").read_text()
    assert "| four | 5." in table
    assert "- wrong: failed: " in table
    assert "- device: tensorrt: its engine is built on the device" in table
    assert str(folder) not in table.replace(failed["error"], "")

    said.clear()
    again = list(made.run(recipes, lambda recipe, stage, part: said.append(recipe.stem)))
    assert set(said) <= {"wrong"}  # what failed is tried again
    assert again[0] == {**good, "reused": True}
    assert "reused" not in load(tmp_path)["rows"][0]


def test_an_interrupted_sweep_goes_on_with_the_bundle_that_was_built(folder, tmp_path):
    recipe, made = folder / "four.yaml", sweep(folder, tmp_path)

    def interrupt(_, stage, __):
        if stage == "deciding":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(made.run([recipe], interrupt))
    half = json.loads((tmp_path / "rows" / "four.json").read_text())
    said: list[str] = []
    (row,) = made.run([recipe], lambda _, stage, __: said.append(stage))
    assert set(said) == {"deciding", "timing", "perplexity"}
    assert row["build"] == half["build"]
    assert row["measured"]["decisions"] == 2
    assert not list((tmp_path / "bundles").iterdir())


def test_a_row_is_old_when_anything_it_was_made_from_changes(folder, tmp_path):
    recipe, what = folder / "four.yaml", sweep(folder, tmp_path).what
    skills = folder / "skills.yaml"
    other = tmp_path / "four.yaml"
    other.write_text(recipe.read_text().replace("path: model", f"path: {folder / 'model'}"))
    before = fingerprint(recipe, what, skills)
    assert fingerprint(recipe, what, skills) == before
    assert fingerprint(other, what, skills) != before
    for file in ("set.jsonl", "text.txt", "model/config.json"):
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content + b"\n")
        assert fingerprint(recipe, what, skills) != before, file
        (folder / file).write_bytes(content)
    (folder / "model" / "state.safetensors").write_bytes(b"of a training")
    assert fingerprint(recipe, what, skills) == before
    (folder / "model" / "state.safetensors").unlink()


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (
            "import os, sys; print('last words', file=sys.stderr, flush=True); os.abort()",
            r"step x was ended by signal 6 \(9: most often out of memory\); log: last words",
        ),
        ("raise SystemExit(7)", "step x ended with status 7; log: empty"),
        ('print(\'{"error": "no luck"}\')', "^no luck$"),
    ],
)
def test_a_process_that_dies_costs_its_row(tmp_path, monkeypatch, program, says):
    monkeypatch.setattr(stepping, "_command", lambda: [sys.executable, "-c", program])
    with Steps() as steps, pytest.raises(StepError, match=says):
        steps.run({"step": "x"}, tmp_path / "log", lambda stage, part: None)


def test_one_process_does_steps_and_tells_its_progress_until_one_fails(tmp_path, monkeypatch):
    program = (
        "import json, os, sys\n"
        "for line in iter(sys.stdin.readline, ''):\n"
        "    job = json.loads(line)\n"
        "    print(json.dumps({'stage': job['step'], 'fraction': 0.5}), flush=True)\n"
        "    said = {'error': 'no'} if job['step'] == 'bad' else {'result': {'by': os.getpid()}}\n"
        "    print(json.dumps(said), flush=True)\n"
        "    if 'error' in said: break\n"
    )
    monkeypatch.setattr(stepping, "_command", lambda: [sys.executable, "-c", program])
    said, by = [], []
    with Steps() as steps:
        for name in ("one", "two", "bad", "three"):
            try:
                done = steps.run({"step": name}, tmp_path / "log", lambda *s: said.append(s))
                by.append(done["by"])
            except StepError as error:
                by.append(str(error))
    assert said == [(name, 0.5) for name in ("one", "two", "bad", "three")]
    assert by[0] == by[1] != by[3]
    assert by[2] == "no"


def test_an_interrupted_process_may_clear_up(tmp_path, monkeypatch):
    half = tmp_path / "half"
    program = (
        "import pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        f"half = pathlib.Path({str(half)!r})\n"
        "half.touch()\n"
        "try:\n"
        '    print(\'{"stage": "here", "fraction": 0}\', flush=True); time.sleep(60)\n'
        "finally:\n"
        "    half.unlink()\n"
    )
    monkeypatch.setattr(stepping, "_command", lambda: [sys.executable, "-c", program])

    def interrupt(*_):
        assert half.exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Steps() as steps:
        steps.run({"step": "x"}, tmp_path / "log", interrupt)
    assert not half.exists()


def test_two_recipes_of_one_name_are_refused(folder, tmp_path):
    other = tmp_path / "four.yaml"
    other.write_text((folder / "four.yaml").read_text())
    with pytest.raises(RecipeError, match="two recipes are called four"):
        list(sweep(folder, tmp_path).run([folder / "four.yaml", other], lambda *said: None))


def test_recipes_are_found_by_file_folder_pattern_and_name(folder, tmp_path):
    recipes = ("device", "four", "wrong")
    for name in recipes:
        shutil.copy(folder / f"{name}.yaml", tmp_path)
    folder = tmp_path
    assert find_recipes("default")[0].name == "default.yaml"
    assert find_recipes(str(folder / "four.yaml")) == [folder / "four.yaml"]
    assert tuple(path.stem for path in find_recipes(str(folder))) == recipes
    assert find_recipes(str(folder / "w*.yaml")) == [folder / "wrong.yaml"]
    with pytest.raises(RecipeError, match=r"the recipe nowhere does not exist; .*\bdefault, "):
        find_recipes("nowhere")


def test_what_is_no_sweep_is_said(tmp_path):
    with pytest.raises(QuantLlmError, match="run `quant_llm sweep RECIPE"):
        load(tmp_path)
    for text in ("[", "[]", "{}"):
        (tmp_path / "sweep.json").write_text(text)
        with pytest.raises(QuantLlmError, match="run the sweep again"):
            load(tmp_path)


def test_an_empty_table_is_a_table():
    what = {"datasets": ["a.jsonl"], "text": None, "windows": 1, "window": 2, "threads": 1}
    document = {"machine": {"model": "m", "cores": 2}, "what": what, "rows": []}
    assert "no text was given" in markdown(document).lower()
