"""The drafter: what it guesses from a few examples, what it learns, what it never breaks."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
from scripted import SKILLS_PATH

from quant_llm_ros.command.calls import MAX_CALLS, parse, UNKNOWN
from quant_llm_ros.command.drafter import Drafter
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.command.text import clean
from quant_llm_ros.engine.bundle import Bundle, DRAFTER
from quant_llm_ros.errors import SkillsError
from quant_llm_ros.training.drafting import train_drafter
from quant_llm_ros.training.generator import generate

SKILLS = SkillRegistry.load(SKILLS_PATH)
TAUGHT = [
    ("fetch the mug from the shelf", "bring(object=mug, source=shelf)", ()),
    ("fetch the green apple from the cellar", "bring(object=green apple, source=cellar)", ()),
    ("fetch a fork", "bring(object=fork)", ()),
    ("what a day", UNKNOWN, ()),
]


@pytest.fixture(scope="module")
def drafter() -> Drafter:
    return Drafter(SKILLS)


@pytest.mark.parametrize(
    "example", [example for skill in SKILLS.skills.values() for example in skill.examples]
)
def test_the_registry_s_examples_are_guessed(drafter: Drafter, example) -> None:
    assert drafter.for_sentence(example.say)("") == example.calls


@pytest.mark.parametrize(
    ("sentence", "answer"),
    [
        ("turn right", "turn(direction=right)"),
        ("follow my sister", "follow(target=sister)"),
        ("open the cupboard", "open(object=cupboard)"),
    ],
)
def test_new_sentences_are_guessed_from_a_few_examples(
    drafter: Drafter, sentence: str, answer: str
) -> None:
    assert drafter.for_sentence(sentence)("") == answer


@pytest.mark.parametrize("skills", [1, 300])
def test_a_registry_may_have_no_examples_or_very_many(skills: int) -> None:
    document = {
        "version": 1,
        "name": "many",
        "skills": {
            f"open_{index}": {
                "description": f"open gate {index}",
                "examples": [{"say": f"gate {index}", "calls": f"open_{index}()"}] * (skills > 1),
            }
            for index in range(skills)
        },
    }
    drafter = Drafter(SkillRegistry.from_document(document, source="test"))
    whole = drafter.for_sentence("gate 7 please")("")
    assert whole is not None
    assert parse(whole)


def test_a_guess_goes_on_from_what_is_known(drafter: Drafter) -> None:
    draft = drafter.for_sentence("bring the red cup from the kitchen to the hall")
    begun = (
        "fi",
        "find(",
        "find(object=red",
        "bring(object=cup, ",
        "go_to(place=ha",
        "unk",
        "uns",
    )
    for said in begun:
        whole = draft(said)
        assert whole is not None
        assert whole.startswith(said)
        assert whole == UNKNOWN or parse(whole)
    assert draft("find(object=red cup, place=kitchen)") is not None


@pytest.mark.parametrize(
    "said", ["fly(", "find(colour=", "find(object=spoon", "Go", "dock()x", "�"]
)
def test_what_no_answer_begins_with_has_no_guess(drafter: Drafter, said: str) -> None:
    assert drafter.for_sentence("bring the red cup")(said) is None


def test_it_learns_from_answers() -> None:
    drafter = Drafter(SKILLS)
    sentence, answer = "scoot over to the left by two feet", "move(direction=left, distance=2 ft)"
    assert drafter.for_sentence(sentence)("") != answer
    for _ in range(5):
        drafter.learn(sentence, answer)
    assert drafter.for_sentence(sentence)("") == answer
    assert (
        drafter.for_sentence("scoot over to the left by six feet")("")
        == "move(direction=left, distance=6 ft)"
    )


def test_it_learns_what_no_skill_serves() -> None:
    drafter = Drafter(SKILLS)
    for place, chore in (("hall", "mop the floor"), ("study", "mop the stairs")):
        for _ in range(5):
            answer = f"go_to(place={place}); unserved(part={chore})"
            drafter.learn(f"go to the {place} and {chore}", answer)
    guess = drafter.for_sentence("go to the kitchen and mop the carpet")("")
    assert guess == "go_to(place=kitchen); unserved(part=mop the carpet)"


def test_it_learns_in_conversation() -> None:
    drafter = Drafter(SKILLS)
    before = [("find the red cup in the hall", "find(object=red cup, place=hall)")]
    answer = "bring(object=red cup, destination=me)"
    for _ in range(5):
        drafter.learn("bring it to me", answer, before)
    assert drafter.for_sentence("bring it to me", before)("") == answer
    other = [("find my keys in the hall", "find(object=keys, place=hall)")]
    assert (
        drafter.for_sentence("bring it to me", other)("") == "bring(object=keys, destination=me)"
    )


def test_training_generalizes() -> None:
    drafter = Drafter(SKILLS)
    drafter.train(TAUGHT, rounds=5)
    draft = drafter.for_sentence("fetch the blue plate from the attic")
    assert draft("") == "bring(object=blue plate, source=attic)"


def _guessed(drafter: Drafter) -> int:
    """Count the new sentences whose answer is guessed right at once."""
    fresh = [e for g in generate(99, 10, 16, default_share=1.0) for e in g.examples]
    return sum(
        drafter.for_sentence(clean(e.text, max_chars=512), e.before)("") == e.answer for e in fresh
    )


def test_training_on_generated_sentences_guesses_more_of_new_ones() -> None:
    assert _guessed(train_drafter(SKILLS, sentences=400)) > 1.5 * _guessed(Drafter(SKILLS))


@pytest.mark.bundle
def test_the_default_bundle_has_a_trained_drafter(bundle_path: Path) -> None:
    trained = Drafter(SKILLS, Bundle.load(bundle_path, verify=False).file(DRAFTER))
    assert _guessed(trained) > 2.0 * _guessed(Drafter(SKILLS))


def test_what_was_learned_is_kept_in_a_file(tmp_path: Path) -> None:
    drafter = Drafter(SKILLS)
    drafter.train(TAUGHT, rounds=5)
    drafter.save(tmp_path / "drafter.json")
    loaded = Drafter(SKILLS, tmp_path / "drafter.json")
    for sentence, answer, _ in TAUGHT:
        assert loaded.for_sentence(sentence)("") == answer


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory; name a drafter's file"),
        ("{", "is no drafter's file: .*; make it anew"),
        ("[]", "is no drafter's file"),
        ('{"format_version": 2, "weights": {}}', "format_version is 2, this release reads 1"),
        ('{"format_version": 1, "weights": {"a": "b"}}', "is no drafter's file"),
        ('{"format_version": 1, "weights": 3}', "is no drafter's file"),
        ("\udcff", "is no drafter's file"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "drafter.json"
    if content is not None:
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(SkillsError, match=message):
        Drafter(SKILLS, path)


def test_memory_stays_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("quant_llm_ros.command.drafter.MAX_WEIGHTS", 500)
    drafter = Drafter(SKILLS)
    for index in range(20):
        drafter.learn(f"fetch the thing{index}", f"bring(object=thing{index})")
    drafter.save(tmp_path / "drafter.json")
    assert len(json.loads((tmp_path / "drafter.json").read_text())["weights"]) <= 500


WORDS = st.sampled_from(
    ("bring", "me", "the", "red", "cup", "from", "kitchen", "and", "then", "turn", "left", "by",
     "30", "degrees", "go", "two", "a", "half", "m", "it", "that", "don't", "2", "%", "é", "🤖",
     "Café", ",", ".", ";", "(", ")", "=")
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    sentence=st.one_of(st.lists(WORDS, max_size=15).map(" ".join), st.text(max_size=60)),
    cut=st.integers(0, 60),
)
def test_any_sentence_has_a_guess_in_the_notation(
    drafter: Drafter, sentence: str, cut: int
) -> None:
    cleaned = clean(sentence.encode("utf-8", "ignore").decode(), max_chars=500)
    draft = drafter.for_sentence(cleaned)
    whole = draft("")
    assert whole is not None
    assert len(parse(whole)) <= MAX_CALLS
    # The end of a guess is guessed again when its beginning turns out right.
    assert (draft(whole[:cut]) or "").startswith(whole[:cut])
