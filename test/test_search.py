"""Search for mixed precision: on tiny models, whose every mixture could be tried."""

from __future__ import annotations

import itertools
from pathlib import Path
import subprocess
import sys

import pytest
from tiny_models import make_folder, recipe_text, SKILLS
import yaml

from quant_llm_ros.cli.building import Builder
from quant_llm_ros.errors import EngineError, QuantLlmError, RecipeError
from quant_llm_ros.quantize.build import build_bundle
from quant_llm_ros.quantize.recipe import Recipe
from quant_llm_ros.report import budget as budgets
from quant_llm_ros.report.budget import Budget, Device
from quant_llm_ros.report.mixture import (
    DEFAULT_CHOICES,
    describe,
    Effect,
    Mixer,
    mixture_settings,
    read_choices,
    write_recipe,
)
from quant_llm_ros.report.search import greedy, search, Storage, write_found


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "model").mkdir()
    make_folder(folder / "model")
    file = folder / "tiny.yaml"
    # A path without a slash, as people write it.
    file.write_text(recipe_text(Path("model")))
    return Recipe.load(file)


@pytest.fixture(scope="module")
def mixer(recipe) -> Mixer:
    return Mixer(recipe, DEFAULT_CHOICES)


def run(recipe: Recipe, budget: str, trials: int = 12, storage: Storage | None = None, **changes):
    settings = {
        "trials": trials,
        "storage": storage or Storage(seed=1),
        "device": Device(Builder(), SKILLS, threads=1),
        "progress": lambda what, done, total: None,
        **changes,
    }
    return search(recipe, DEFAULT_CHOICES, Budget.parse(budget), **settings)


def test_groups_are_the_parts_of_the_model(mixer):
    parts = [f"model.layers.{n}.{part}.*" for n in (0, 1) for part in ("self_attn", "mlp")]
    assert mixer.groups == ("model.embed_tokens.weight", *parts)


def test_an_effect_leaves_the_model_as_it_was(mixer):
    nothing = mixer.divergence((0,) * len(mixer.groups))
    first, second = mixer.effect(1, 0), mixer.effect(1, 1)
    assert first.bits < second.bits  # 4 bits are fewer than 8
    assert first.kl_nats > second.kl_nats >= 0
    assert mixer.effect(1, 0) == first
    assert mixer.divergence((0,) * len(mixer.groups)) == nothing > first.kl_nats


@pytest.mark.parametrize(
    ("most", "mixture"),
    [(0, (0, 0, 0)), (19, (0, 0, 0)), (20, (1, 0, 0)), (35, (1, 0, 0)), (60, (1, 1, 0))],
)
def test_greedy_spends_bits_where_they_save_most(most, mixture):
    effects = [
        [Effect(0, 0.5), Effect(20, 0.1)],  # saves 0.02 nats a bit
        [Effect(0, 0.5), Effect(40, 0.1)],  # 0.01
        [Effect(0, 0.1), Effect(1, 0.2)],  # more bits, and worse
    ]
    assert greedy(effects, most) == mixture


def test_the_found_recipe_is_an_ordinary_one(recipe, tmp_path):
    """Within the budget, and its bundle is what the search said."""
    everything = run(recipe, "size_mb=100", trials=2)
    smallest = run(recipe, f"size_mb={0.6 * everything.size_mb}", trials=3)
    assert set(everything.mixture) == {1}
    between = (everything.size_mb + smallest.size_mb) / 2
    found = run(recipe, f"size_mb={between}")
    assert found.size_mb <= between
    assert everything.kl_nats < found.kl_nats < smallest.kl_nats
    output = tmp_path / "deeper" / "found.yaml"
    written = write_found(found, recipe, DEFAULT_CHOICES, Budget.parse("size_mb=1"), output)
    assert output.read_text().startswith("# Found by `quant_llm search --budget size_mb=1` in 12")
    assert written.name == "found"
    bundle = build_bundle(
        written, tmp_path / "bundle", skills=SKILLS, progress=lambda stage, part: None
    )
    assert bundle.figures["kl_divergence_nats"] == pytest.approx(found.kl_nats, rel=1e-3)
    bits = bundle.figures["bits_per_weight"] * bundle.model.parameters
    assert bits / 8e6 == pytest.approx(found.size_mb, rel=1e-3)


def test_no_worse_than_every_mixture_of_two_parts(recipe, mixer):
    """With few enough mixtures the search finds the best of all."""
    effects = [[mixer.effect(g, c) for c in (0, 1)] for g in range(len(mixer.groups))]

    def size_mb(mixture):
        bits = mixer.fixed_bits + sum(effects[g][c].bits for g, c in enumerate(mixture))
        return bits / 8e6

    mixtures = list(itertools.product((0, 1), repeat=len(mixer.groups)))
    limit = (size_mb(mixtures[0]) + size_mb(mixtures[-1])) / 2
    best = min(mixer.divergence(m) for m in mixtures if size_mb(m) <= limit)
    found = run(recipe, f"size_mb={limit}", trials=20)
    assert found.kl_nats <= best * 1.1


def test_machines_share_a_study(recipe, tmp_path):
    storage = Storage(f"sqlite:///{tmp_path / 'study.db'}", seed=3)
    first = run(recipe, "size_mb=0.1", 4, storage)
    said = []
    second = run(
        recipe, "size_mb=0.1", 3, storage, progress=lambda what, *counts: said.append(what)
    )
    assert (first.trials, second.trials) == (4, 7)
    assert second.kl_nats <= first.kl_nats
    assert set(said) == {"trying mixtures"}  # sensitivities are known by then
    with pytest.raises(RecipeError, match="is about another model, other choices or another"):
        run(recipe, "size_mb=0.11", 1, storage)


def test_time_is_measured_on_this_machine(recipe):
    found = run(recipe, "latency_ms=1000", trials=1)
    assert 0 < found.cost < 1000
    with pytest.raises(RecipeError, match=r"none of 1 mixtures fits latency_ms=1e-06; the least"):
        run(recipe, "latency_ms=0.000001", trials=1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("size=80", "'size=80' is not one of size_mb=NUMBER, latency_ms=NUMBER, energy_j"),
        ("size_mb", "is not one of"),
        ("size_mb=-1", "is not one of"),
        ("size_mb=nan", "is not one of"),
    ],
)
def test_wrong_budgets(text, says):
    with pytest.raises(RecipeError, match=says):
        Budget.parse(text)


def test_what_cannot_be_found_is_said(recipe, tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match=r"nothing fits size_mb=0.001: the smallest"):
        run(recipe, "size_mb=0.001")
    monkeypatch.setattr(budgets, "find_sensor", lambda: None)
    with pytest.raises(EngineError, match="no energy sensor that can be read"):
        run(recipe, "energy_j=1")
    with pytest.raises(QuantLlmError, match="the storage nonsense://x cannot be used"):
        run(recipe, "size_mb=1", storage=Storage("nonsense://x"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("method: uniform", "must be a list of two or more methods"),
        ("- {method: uniform}", "must be a list of two or more methods"),
        ("- [", "cannot be read"),
    ],
)
def test_wrong_choices(tmp_path, text, says):
    file = tmp_path / "choices.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=says):
        read_choices(file)


def test_a_choice_is_checked_as_in_a_recipe(recipe):
    choices = ({"method": "uniform", "bits": 4}, {"method": "unifrom"})
    with pytest.raises(RecipeError, match="did you mean 'uniform'"):
        Mixer(recipe, choices)
    with pytest.raises(RecipeError, match=r"block 256: model.*64 inputs are not a multiple"):
        Mixer(recipe, [{"method": "uniform", "block": 256}]).effect(0, 0)
    assert describe(choices[0]) == "uniform, bits 4"


def test_a_moved_recipe_finds_its_files(recipe, tmp_path):
    settings = mixture_settings(recipe, DEFAULT_CHOICES, ["a.*", "b.*", "c.*"], (0, 1, 0))
    moved = write_recipe(settings, recipe, tmp_path / "there" / "x.yaml", "why")
    assert moved.checkpoint.path.resolve() == recipe.checkpoint.path.resolve()
    assert moved.quantizer("b.weight").bits == 8
    assert moved.quantizer("a.weight").bits == 4
    assert list(moved.settings["quantize"]["layers"]) == ["b.*"]


def test_the_program(recipe, tmp_path):
    """As a person starts it; the bundle of what it wrote can be built."""
    output, sensitivities = tmp_path / "found.yaml", tmp_path / "s.json"
    command = [sys.executable, "-m", "quant_llm_ros.cli", "search", "--recipe", recipe.file]
    command += ["--budget", "size_mb=0.1", "--trials", "3", "--output", output]
    done = subprocess.run(
        [*map(str, command), "--sensitivities", str(sensitivities)],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert "size_mb" in done.stdout and "3 trials" in done.stdout
    data = yaml.safe_load(sensitivities.read_text())
    assert len(data["effects"]) == len(data["groups"]) == 5
