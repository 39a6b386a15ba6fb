"""A large registry, of which the model is shown a few skills for each sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import build_tiny, make_folder
import yaml

from quant_llm_ros.benchmark.growth import registry_of
from quant_llm_ros.benchmark.plain import plain_decode
from quant_llm_ros.command.answerer import Answerer
from quant_llm_ros.command.calls import parse, UNSERVED
from quant_llm_ros.command.prompt import Prompt
from quant_llm_ros.command.shelf import Shelf
from quant_llm_ros.command.shortlist import COMMON, LARGE, Shortlist
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.command.understander import Understander
from quant_llm_ros.engine.bundle import Bundle, TOKENIZER
from quant_llm_ros.engine.onnxruntime_engine import OnnxRuntimeEngine
from quant_llm_ros.engine.tokenizer import Tokenizer
from quant_llm_ros.errors import CommandError

SKILLS = Path(__file__).parent.parent / "config" / "skills" / "service_robot.yaml"
REGISTRY = registry_of(SKILLS, 300)
SENTENCES = (
    "go to the kitchen and then bring me the red cup",
    "drive two meters forward",
    "polish the window at the gate and water the plants in the hall",
    "how nice the weather is",
)


@pytest.mark.parametrize(
    ("sentence", "needed"),
    [
        ("bring me the newspaper", {"bring"}),
        ("roll ahead three metres", {"move"}),
        ("rotate thirty degrees", {"turn"}),
        ("please go to the kitchen, then pick up the pen", {"go_to", "pick"}),
        ("Polishing the WINDOW in the hall", {"polish_window"}),
        ("count the batteries and label a present", {"count_battery", "label_present"}),
        ("photograph doors", {"photograph_door"}),
        ("abracadabra", {"move"}),  # nothing speaks for any skill: the first of the registry
        ("", set()),
    ],
)
def test_what_a_sentence_means_is_on_its_list(sentence: str, needed: set[str]) -> None:
    shortlist = Shortlist(REGISTRY, 16)
    chosen = shortlist(sentence)
    assert needed <= set(chosen)
    assert "stop" in chosen
    assert len(chosen) == 16
    assert chosen[: len(shortlist.common)] == shortlist.common
    others = chosen[len(shortlist.common) :]
    assert list(others) == [name for name in REGISTRY.names if name in others]
    assert Shortlist(REGISTRY, 16)(sentence) == chosen


def test_what_was_said_before_stays_on_the_list() -> None:
    shortlist = Shortlist(REGISTRY, 10)
    before = [("fold the towel", "fold_towel(place=?)"), ("hm", "weigh_crate(place=hall); gone()")]
    assert {"fold_towel", "weigh_crate", "stop"} <= set(shortlist("in the laundry", before))
    assert len(Shortlist(REGISTRY, 1)("fold the towel", before)) == COMMON + 2


def test_a_list_may_be_longer_than_the_registry() -> None:
    assert set(Shortlist(REGISTRY, 1000)("go")) == set(REGISTRY.names)


def test_what_a_drafter_knows_of_a_skill_counts() -> None:
    learned = {"heat_lamp": {"veil": 2.0, ".veil": 3.0, "cover up": 4.0}, "gone": {"veil": 9.0}}
    shortlist = Shortlist(REGISTRY, COMMON + 1, learned)
    for sentence in ("Veil it", "please cover up"):
        assert "heat_lamp" not in Shortlist(REGISTRY, COMMON + 1)(sentence)
        assert "heat_lamp" in shortlist(sentence)
    assert "heat_lamp" not in shortlist("up cover")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("shortlist")
    model = make_folder(folder / "model", max_position_embeddings=4096)
    return build_tiny(folder, model, context_length=4096)


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine.load(bundle, threads=1)


@pytest.fixture(scope="module")
def tokenizer(bundle: Bundle) -> Tokenizer:
    return Tokenizer(bundle.file(TOKENIZER))


def logits_behind(engine: OnnxRuntimeEngine, opening: list[int]) -> Any:
    return engine.append([*opening, 40, 41, 42], last=3).copy()


@pytest.mark.parametrize("examples", [True, False])
def test_the_gathered_prompt_is_the_written_one(
    tmp_path: Path, tokenizer: Tokenizer, examples: bool
) -> None:
    """In a model of one layer keys and values depend on token and position alone."""
    model = make_folder(tmp_path / "model", num_hidden_layers=1, max_position_embeddings=4096)
    bundle = build_tiny(tmp_path, model, context_length=4096)
    engine = OnnxRuntimeEngine.load(bundle, threads=1, exact=True)
    registry = registry_of(SKILLS, 12)
    prompt = Prompt(registry, tokenizer, examples=examples)
    common = ("stop", "move")
    shelf = Shelf(prompt, engine, common, registry.names)
    for names in ((*common, "turn", "bring"), common, (*common, "bring", "polish_window")):
        opening = shelf.gather(names)
        assert tuple(opening) == prompt.prefix_of(names)[engine.length :]
        gathered = logits_behind(engine, opening)
        engine.rollback(0)
        expected = logits_behind(engine, list(prompt.prefix_of(names)))
        assert np.abs(gathered - expected).max() < 0.01 * np.abs(expected).max()
    engine.close()


def test_where_a_tokenizer_joins_lines_all_are_shown(
    engine: OnnxRuntimeEngine, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tokenizer like Qwen's has one token for a mark and the break behind it."""
    encode = tokenizer.encode

    def joining(text: str) -> list[int]:
        parts = text.split(".\n")
        return [*(t for part in parts[:-1] for t in [*encode(part), 9]), *encode(parts[-1])]

    monkeypatch.setattr(tokenizer, "encode", joining)
    document = yaml.safe_load(SKILLS.read_text())
    assert Answerer(
        engine, tokenizer, registry_of(SKILLS, LARGE + 1), max_command_chars=64, shortlist=10
    ).shortens
    for skill in document["skills"].values():
        skill["description"] += "."
    many = {f"more_{i}": {"description": "Do more."} for i in range(LARGE)}
    document["skills"] |= many
    registry = SkillRegistry.from_document(document, source="with marks")
    answerer = Answerer(engine, tokenizer, registry, max_command_chars=64, shortlist=10)
    assert not answerer.shortens
    assert engine.length == len(answerer.prefix)


def test_a_skill_looks_the_same_whatever_others_there_are(
    engine: OnnxRuntimeEngine, tokenizer: Tokenizer
) -> None:
    chosen = ("stop", "move", "bring", "find")
    logits = []
    for count in (10, 60):
        registry = registry_of(SKILLS, count)
        shelf = Shelf(
            Prompt(registry, tokenizer, examples=True), engine, chosen[:2], registry.names
        )
        logits.append(logits_behind(engine, shelf.gather(chosen)))
    np.testing.assert_array_equal(*logits)


def test_drafts_and_passes_change_no_decision(bundle: Bundle) -> None:
    def decisions(drafts: bool, plain: bool) -> list[Any]:
        engine = OnnxRuntimeEngine.load(bundle, threads=1)
        understander = Understander.of_bundle(
            bundle, engine, REGISTRY, drafts=drafts, shortlist=12
        )
        if plain:
            understander.answerer.decode = plain_decode
        made = [understander.understand(text) for text in (*SENTENCES, *SENTENCES[:2])]
        understander.close()
        return [(d.status, d.answer, d.calls) for d in made]

    expected = decisions(drafts=False, plain=True)
    assert expected[:2] == expected[-2:]
    assert decisions(drafts=True, plain=False) == expected
    assert decisions(drafts=False, plain=False) == expected


def test_only_listed_skills_can_be_called(bundle: Bundle) -> None:
    engine = OnnxRuntimeEngine.load(bundle, threads=1)
    understander = Understander.of_bundle(bundle, engine, REGISTRY, shortlist=10)
    called: list[str] = []
    for sentence in SENTENCES:
        listed = Shortlist(REGISTRY, 10)(sentence)
        decision = understander.understand(sentence)
        called += (names := [call.skill for call in parse(decision.answer)])
        assert set(names) <= {*listed, UNSERVED.name}, sentence
    assert called
    understander.close()


@pytest.mark.parametrize(
    ("count", "shortlist", "whole"),
    [(10, 4, True), (LARGE, 4, True), (LARGE + 1, 4, False), (LARGE + 1, 0, True)],
)
def test_when_there_is_a_shortlist(
    engine: OnnxRuntimeEngine, tokenizer: Tokenizer, count: int, shortlist: int,
    whole: bool,
) -> None:  # fmt: skip
    registry = registry_of(SKILLS, count)
    answerer = Answerer(engine, tokenizer, registry, max_command_chars=64, shortlist=shortlist)
    assert (engine.length == len(answerer.prefix)) is whole


def test_an_engine_without_pieces_shows_all(
    engine: OnnxRuntimeEngine, tokenizer: Tokenizer
) -> None:
    class Plain:
        info, vocab_size, context_length = engine.info, engine.vocab_size, engine.context_length
        append, rollback, mark, close = engine.append, engine.rollback, engine.mark, engine.close
        length = property(lambda self: engine.length)

    registry = registry_of(SKILLS, LARGE + 5)
    plain: Any = Plain()
    answerer = Answerer(plain, tokenizer, registry, max_command_chars=64, shortlist=4)
    assert engine.length == len(answerer.prefix)


@pytest.mark.parametrize(
    ("count", "shortlist", "says"),
    [
        (120, 0, r"prompt of 120 skills .* fewer skills or examples, a shortlist \(24 is usual\)"),
        (120, 60, r"prompt of 60 skills .* use a smaller shortlist, shorter descriptions"),
        (LARGE, 0, "use fewer skills or examples, shorter commands, or a bundle"),
    ],
)
def test_a_prompt_without_room(
    engine: OnnxRuntimeEngine, tokenizer: Tokenizer, count: int, shortlist: int, says: str
) -> None:
    with pytest.raises(CommandError, match=says):
        Answerer(
            engine, tokenizer, registry_of(SKILLS, count), max_command_chars=3600,
            shortlist=shortlist,
        )  # fmt: skip


def test_what_was_said_before_counts_for_a_list_too(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = OnnxRuntimeEngine.load(bundle, threads=1)
    understander = Understander.of_bundle(bundle, engine, REGISTRY, shortlist=10)
    before = [("fold the towel in the hall", "fold_towel(place=hall)")]
    assert "fold_towel" not in Shortlist(REGISTRY, 10)("and there")
    lists = []
    gather = understander.answerer._shelf.gather
    monkeypatch.setattr(
        understander.answerer._shelf, "gather", lambda names: lists.append(names) or gather(names)
    )
    for _ in range(2):
        understander.understand("and there", before=before)
        understander.learn()
    assert ["fold_towel" in names for names in lists] == [True, True]
    understander.close()
