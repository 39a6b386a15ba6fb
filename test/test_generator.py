"""The training sentences: reproducible, always answerable, varied, and labelled as agreed."""

from __future__ import annotations

import collections
import contextlib
import json
import random

import pytest

from quant_llm_ros.cli import generate as command_line
from quant_llm_ros.command.calls import Grammar, MISSING, parse, UNKNOWN
from quant_llm_ros.command.decision import Status
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.command.text import clean, words
from quant_llm_ros.command.validator import Validator
from quant_llm_ros.training.corpus import default_kind, load_concepts, other_kinds
from quant_llm_ros.training.derive import derive
from quant_llm_ros.training.from_examples import kind_of, slotted
from quant_llm_ros.training.generator import check, generate, KINDS, TrainingExample
from quant_llm_ros.training.noise import disturb, Manner
from quant_llm_ros.training.others import load_domains
from quant_llm_ros.training.pattern import compile_pattern, Span
from quant_llm_ros.training.sentences import Commander, Draft, gerund
from quant_llm_ros.training.talker import Talker, Wish
from quant_llm_ros.training.view import SkillView, Unsayable, View, write_answer

SIZE = 5000

OWN_REGISTRY = """
version: 1
name: window_washer
skills:
  wash:
    description: wash a window
    arguments:
      window: {type: text}
      passes: {type: quantity, unit: s, units: [s, min], min: 1, max: 600, required: false}
    examples:
      - {say: wash the kitchen window, calls: wash(window=kitchen window)}
      - {say: wash the left pane for two minutes, calls: "wash(window=left pane, passes=2 min)"}
  climb:
    description: climb a distance
    arguments:
      direction: {type: choice, choices: [up, down]}
      distance: {type: quantity, unit: m, units: [m, cm], min: 0.1, max: 20}
    examples:
      - {say: climb up three and a half meters, calls: "climb(direction=up, distance=3.5 m)"}
  turn:
    description: turn on the spot
    arguments:
      direction: {type: choice, choices: [left, right, around]}
      angle: {type: quantity, unit: deg, units: [deg, rad, turn], required: false}
  silent:
    description: has no example
"""


@pytest.fixture(scope="module")
def sample():
    """Give many examples with their registries: (registry, example)."""
    groups = generate(11, -(-SIZE // 16))
    return [(g.registry, e) for g in groups for e in g.examples][:SIZE]


def own_registry():
    import yaml

    return SkillRegistry.from_document(yaml.safe_load(OWN_REGISTRY), source="own.yaml")


def test_the_same_seed_gives_the_same_sentences():
    first = [(g.registry.names, g.examples) for g in generate(5, 20)]
    again = [(g.registry.names, g.examples) for g in generate(5, 20)]
    other = [(g.registry.names, g.examples) for g in generate(6, 20)]
    assert first == again
    assert first != other


def test_every_answer_holds_against_its_registry(sample):
    validators = {}
    for registry, example in sample:
        check(example, registry)
        if id(registry) not in validators:
            validators[id(registry)] = Validator(registry)
        status = validators[id(registry)].check(parse(example.answer)).status
        expected = {
            "incomplete": (Status.CLARIFY,),
            "out_of_range": (Status.REJECTED,),
            "command": (Status.ACCEPTED, Status.STOP),
            "chain": (Status.ACCEPTED, Status.STOP),
            "mixed": (Status.ACCEPTED, Status.STOP),
            "follow_up": (Status.ACCEPTED, Status.STOP, Status.UNKNOWN),
            "partly_served": (Status.ACCEPTED, Status.CLARIFY, Status.STOP),
        }.get(example.kind, (Status.UNKNOWN,))
        assert status in expected, example


def test_the_grammar_of_the_sentence_takes_the_answer(sample):
    """On a part: what is checked in Python is what the grammar for decoding allows."""
    llguidance = pytest.importorskip("llguidance")
    alphabet = [bytes([i]) for i in range(256)]

    class Bytes:
        def __init__(self):
            self.eos_token_id, self.bos_token_id, self.special_token_ids = 256, None, [256]
            self.tokens = [*alphabet, b"<eos>"]

        def __call__(self, text):
            return list(text)

    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Bytes()))
    for registry, example in sample[::25]:
        sentence = words(clean(example.text, max_chars=512))
        before = [words(clean(text, max_chars=512)) for text, _ in example.before]
        grammar = llguidance.LLMatcher.grammar_from_lark(
            Grammar(registry).for_sentence(sentence, before)
        )
        matcher = llguidance.LLMatcher(tokenizer, grammar)
        taken = matcher.try_consume_tokens(list(example.answer.encode()))
        assert taken == len(example.answer.encode()), example
        assert matcher.is_accepting(), example


def test_sentences_are_varied(sample):
    texts = [example.text.casefold() for _, example in sample]
    assert len(set(texts)) > 0.95 * SIZE
    assert len({words(text)[0] for text in texts if words(text)}) > 300
    assert len({word for text in texts for word in words(text)}) > 2500
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) <= 2 and max(lengths) >= 25


def test_every_kind_and_every_default_skill_occurs(sample):
    kinds = collections.Counter(example.kind for _, example in sample)
    assert set(kinds) == set(KINDS)
    default = default_kind().registry
    mine = [e for registry, e in sample if registry is default]
    assert 0.5 < len(mine) / SIZE < 0.7
    skills = collections.Counter(c.skill for e in mine for c in parse(e.answer))
    assert set(skills) == {*default.names, "unserved"}
    several = [e for _, e in sample if e.kind in ("command", "chain") and "; " in e.answer]
    commands = kinds["command"] + kinds["chain"]
    assert 0.3 < len(several) / commands < 0.55
    assert 0.15 < sum(e.answer == UNKNOWN for _, e in sample) / SIZE < 0.3


def test_shares_of_kinds_can_be_chosen():
    kinds = {"small_talk": 1.0}
    for group in generate(3, 5, 8, kinds=kinds):
        assert len(group.examples) == 8
        assert {e.answer for e in group.examples} == {UNKNOWN}


def test_registries_differ_in_names_order_and_choices():
    registries = [g.registry for g in generate(4, 150, 1, default_share=0.0)]
    signatures = {tuple(s.signature for s in r.skills.values()) for r in registries}
    assert len(signatures) > 120
    names = {name for r in registries for name in r.names}
    assert len(names) > 250
    assert all("stop" in r.names for r in registries)
    assert any(not s.examples for r in registries for s in r.skills.values())


def test_examples_of_derived_registries_hold():
    for group in generate(8, 40, 1, default_share=0.0):
        Validator(group.registry)


@pytest.mark.parametrize(
    ("verb", "expected"),
    [("take", "taking"), ("put", "putting"), ("go", "going"), ("see", "seeing"),
     ("open", "opening"), ("be", "being"), ("carry", "carrying")],
)  # fmt: skip
def test_gerund(verb, expected):
    assert gerund(verb) == expected


@pytest.mark.parametrize(
    ("say", "calls", "pattern"),
    [
        ("bring me the cup from the shelf", "bring(object=cup, source=shelf, destination=me)",
         "bring {destination'me} {object} from {source}"),
        ("drive forward two and a half meters", "move(direction=forward, distance=2.5 m)",
         "drive {direction} {distance}"),
        ("go back fifty cm", "move(direction=backward, distance=50 cm)",
         "go back {distance} {direction=backward}"),
        ("go there", "go_to(place=?)", None),
        ("go home", "go_to(place=kitchen)", None),
    ],
)  # fmt: skip
def test_patterns_from_examples(say, calls, pattern):
    skill = default_kind().registry.skills[calls.partition("(")[0]]
    assert slotted(say, calls, skill) == pattern


def test_a_registry_with_examples_only():
    registry = own_registry()
    kind = kind_of(registry)
    assert set(kind.skills) == {"wash", "climb", "turn", "stop"}
    examples = [
        e for g in generate(1, 30, registries=[registry], default_share=1.0) for e in g.examples
    ]
    skills = {c.skill for e in examples for c in parse(e.answer)}
    assert skills == {"wash", "climb", "turn", "stop", "unserved"}
    assert len({e.text for e in examples}) > 0.95 * len(examples)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (TrainingExample("fly", "fly()", "x"), "no skill"),
        (TrainingExample("go", "go_to()", "x"), "required"),
        (TrainingExample("go to the hall", "go_to(place=kitchen)", "x"), "not a piece"),
        (TrainingExample("go to the red hall", "go_to(place=the hall)", "x"), "not a piece"),
        (TrainingExample("turn", "turn(direction=up)", "x"), "no choice"),
        (TrainingExample("turn left", "turn(direction=left, angle=?)", "x"), "never asked"),
        (TrainingExample("drive", "move(direction=forward, distance=2 kg)", "x"), "no amount"),
        (TrainingExample("drive", "move(distance=2 m, direction=forward)", "x"), "order"),
    ],
)
def test_wrong_answers_are_noticed(example, message):
    with pytest.raises(ValueError, match=message):
        check(example, default_kind().registry)


@pytest.mark.parametrize("text", ["(a|b", "a)", "[a", "{object", "{object~}", "{a b}"])
def test_malformed_patterns_are_refused(text):
    with pytest.raises(ValueError):
        if compile_pattern(text).nodes and text == "{object":
            raise ValueError("read as a word")


def test_a_pronoun_is_written_as_what_it_stands_for():
    kind = default_kind()
    talker = Talker(random.Random(3), View.plain(kind))
    view = {s.skill.name: s for s in View.plain(kind).skills}
    said = ["take", "the", "red", "mug", "and"]
    wish = Wish(referents=[Span(2, 4, "thing")], pronoun_share=1.0)
    answers = set()
    for _ in range(20):
        draft = Draft(list(said), [])
        draft.calls = talker.clause(draft.words, view["place"], wish)
        assert {"it"} & set(draft.words)
        answers.add(write_answer(draft.calls, draft.words).partition(",")[0].rstrip(")"))
    assert answers == {"place(object=red mug"}


def test_nothing_is_asked_for_that_was_named_before(sample):
    """A pronoun behind a name that it can stand for is never answered with ``?``."""
    asked = 0
    for _, example in sample:
        *before, last = [call.arguments for call in parse(example.answer)] or [{}]
        things = [call[name] for call in before for name in ("object", "device") if name in call]
        if things and MISSING not in things and MISSING in last.values():
            asked += 1
            ends_in_pronoun = words(example.text.casefold())[-1] in ("it", "them")
            assert last.get("object", last.get("device")) != MISSING or not ends_in_pronoun
    assert asked


def _next_skills(commander: Commander, before: SkillView, count: int) -> list[SkillView]:
    """Choose many times what comes next."""
    chosen: list[SkillView] = []
    while len(chosen) < count:
        with contextlib.suppress(Unsayable):
            chosen.append(commander.next_skill([before], Wish()))
    return chosen


def test_what_comes_next_counts_as_often_as_it_is_written():
    """Behind a pick people ask for a bring three times as often as for a look."""
    then = load_concepts().then["pick"]
    assert then.count("bring") == 3 * then.count("look")
    view = View.plain(default_kind())
    commander = Commander(random.Random(1), view)
    pick = next(s for s in view.skills if s.speech.concept == "pick")
    # The quarter that is chosen freely has them equally often.
    chosen = [s.speech.concept for s in _next_skills(commander, pick, 2000)]
    assert 2.2 < chosen.count("bring") / chosen.count("look") < 3.4


def test_a_place_is_also_what_is_used_there():
    kind = default_kind()
    talker = Talker(random.Random(3), View.plain(kind))
    view = {s.skill.name: s for s in View.plain(kind).skills}
    wish = Wish(referents=[Span(3, 4, "place")], pronoun_share=1.0)
    for place, skill, used in (
        ("chest", "close", True), ("oven", "switch", True), ("hall", "close", False)
    ):  # fmt: skip
        meant = set()
        for _ in range(30):
            draft = Draft(["go", "to", "the", place, "and"], [])
            calls = talker.clause(draft.words, view[skill], wish)
            meant |= {value for call in calls for value in call.values.values()}
        assert (Span(3, 4, "place") in meant) == used


def test_a_place_beside_something_to_use_is_not_used():
    talker = Talker(random.Random(3), View.plain(default_kind()))
    said = ["go", "to", "the", "table", "by", "the", "window"]
    assert not talker.is_used(said, Span(3, 7, "place"), "openable")
    assert talker.is_used(said, Span(6, 7, "place"), "openable")


def test_noise_keeps_answers_true():
    rng = random.Random(4)
    manner = Manner(marks=False, capitals=False, slips=0.6, hesitations=0.3)
    sentence = ["please", "bring", "the", "heavy", "watering", "can", "to", "my", "sister"]
    for _ in range(50):
        pieces = disturb(rng, sentence, [Span(3, 6)], manner, frozenset())
        copied = " ".join(pieces[3:6])
        assert len(copied.split()) >= 3
        assert f" {copied} " in f" {' '.join(' '.join(pieces).split())} "


def test_derived_registries_never_lose_stop():
    rng = random.Random(5)
    for kind in (default_kind(), *other_kinds()):
        view = derive(rng, kind, other_kinds())
        assert "stop" in view.registry.names
        assert [s.skill.name for s in view.skills] == list(view.registry.names)


def test_extent_of_the_data_files():
    assert len(other_kinds()) >= 10
    assert sum(len(d.patterns) for d in load_domains()) >= 150
    phrases = [p for s in default_kind().skills.values() for p in (*s.phrases, *s.questions)]
    assert len(phrases) > 200
    for kind in other_kinds():
        assert len(kind.skills) >= 10, kind.registry.name
        assert all(len(s.phrases) >= 2 for s in kind.skills.values()), kind.registry.name
    known = {s.concept for k in (default_kind(), *other_kinds()) for s in k.skills.values()}
    assert known <= set(load_concepts().names)


def test_the_command_writes_json_lines(tmp_path, monkeypatch):
    import argparse

    parser = argparse.ArgumentParser()
    command_line.add_parser(parser.add_subparsers())
    own = tmp_path / "own.yaml"
    own.write_text(OWN_REGISTRY)
    output = tmp_path / "out.jsonl"
    arguments = parser.parse_args(
        ["generate", "--seed", "3", "--count", "37", "--skills", str(own), "--output", str(output)]
    )
    assert arguments.run(arguments) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(rows) == 37
    assert all(set(row) == {"text", "answer", "kind", "registry"} for row in rows)


def test_views_write_their_own_names():
    kind = default_kind()
    rng = random.Random(6)
    for _ in range(30):
        view = derive(rng, kind, ())
        for skill_view in view.skills:
            assert isinstance(skill_view, SkillView)
            named = {a.name for a in skill_view.skill.arguments}
            assert set(skill_view.arguments.values()) == named
