"""Human sentences take other names: what is said around them stays, and the answer follows."""

from __future__ import annotations

import itertools
import random

import pytest

from quant_llm_ros.command.calls import parse
from quant_llm_ros.training.corpus import default_kind
from quant_llm_ros.training.generator import check, MAX_CHARS, TrainingExample
from quant_llm_ros.training.lexicon import load_lexicons
from quant_llm_ros.training.varying import human_groups, vary

SKILLS = default_kind().registry


def varied(text: str, answer: str, times: int = 40) -> list[TrainingExample]:
    rng = random.Random(5)
    example = TrainingExample(text, answer, "human")
    return [vary(example, SKILLS, rng, mark_share=0.0) for _ in range(times)]


def test_the_answer_follows_the_sentence():
    examples = varied(
        "take the book near the glass and bring it to the kitchen",
        "pick(object=book near the glass); bring(object=book near the glass, destination=kitchen)",
    )
    assert len({e.text for e in examples}) > 30
    for example in examples:
        check(example, SKILLS)
        assert example.text.startswith("take the ") and " and bring it to the " in example.text
        picked, brought = (call.arguments for call in parse(example.answer))
        assert picked["object"] == brought["object"]


def test_words_that_are_part_of_a_name_stay():
    for example in varied("place the jam jar label on the table", "place(object=jam jar label, "
                          "destination=table)"):  # fmt: skip
        assert example.text.startswith("place the jam jar label on the ")
        assert example.answer.startswith("place(object=jam jar label, ")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("can you open the can", "open(object=can)"),
        (
            "report your position and fetch the report",
            "report(topic=position); bring(object=report)",
        ),
        ("hang the t-shirt beside a shirt", "place(object=t-shirt)"),
        ("find the dog and follow it", "find(object=dog); follow(target=dog)"),
    ],
)
def test_what_is_said_as_something_else_too_stays(text, answer):
    for example in varied(text, answer):
        assert example.text.split()[:2] == text.split()[:2]
        assert "t-" not in example.text or "t-shirt" in example.text
        assert (" dog" in example.text) == (" dog" in text)


def test_two_names_never_become_one():
    for example in varied(
        "put the box in the basket", "place(object=box, destination=basket)", 99
    ):
        arguments = parse(example.answer)[0].arguments
        assert arguments["object"] != arguments["destination"]


def test_what_would_be_too_long_stays():
    text = "bring me the cup".rjust(MAX_CHARS, "!")
    assert all(len(e.text) <= MAX_CHARS for e in varied(text, "bring(object=cup, destination=me)"))


def test_what_is_used_stays_something_to_use():
    devices = load_lexicons()["device"].names
    for example in varied(
        "go to the oven and switch it on", "go_to(place=oven); switch(device=oven, state=on)"
    ):
        place, device = (call.arguments for call in parse(example.answer))
        assert place["place"] == device["device"]
        assert tuple(device["device"].split()) in devices


@pytest.mark.parametrize(("said", "singular"), [("shoes", False), ("towel", True)])
def test_number_and_article_agree(said, singular):
    article = "a" if singular else "some"
    number = "one" if singular else "many"
    lexicon = load_lexicons()["household"].names
    for example in varied(f"bring {article} {said}", f"bring(object={said})"):
        name = parse(example.answer)[0].arguments["object"]
        assert lexicon[tuple(name.split())].number == number
        if singular:
            wanted = "an" if name[0] in "aeiou" else "a"
            assert example.text == f"bring {wanted} {name}"


def test_capitals_are_kept():
    for example in varied("Follow Anna to the Kitchen", "follow(target=Anna)"):
        assert parse(example.answer)[0].arguments["target"][0].isupper()


def test_a_sentence_without_known_names_stays():
    assert {e.text for e in varied("follow me", "follow(target=me)")} == {"follow me"}
    assert {e.text for e in varied("there are two sinks", "unknown")} == {"there are two sinks"}


def test_marks_are_added_to_some():
    rng = random.Random(2)
    example = TrainingExample("go to the kitchen", "go_to(place=kitchen)", "human")
    texts = [vary(example, SKILLS, rng, name_share=0.0, mark_share=0.5).text for _ in range(30)]
    assert {text.rstrip(".!") for text in texts} == {"go to the kitchen", "Go to the kitchen"}


HUMAN = [
    TrainingExample("go to the kitchen", "go_to(place=kitchen)", "human"),
    TrainingExample("find the cup", "find(object=cup)", "human"),
    TrainingExample("follow me", "follow(target=me)", "human"),
]


def read(
    varied_share: float, *, seed: int = 4, forbidden: str = "", groups: int = 40
) -> list[str]:
    stream = human_groups(
        HUMAN, SKILLS, random.Random(4), size=2, varied_share=varied_share,
        allows=lambda text: not forbidden or forbidden not in text,
    )  # fmt: skip
    return [e.text for group in itertools.islice(stream, groups) for e in group.examples]


def test_human_sentences_come_equally_often_and_as_varied_as_wished():
    plain = read(0.0)
    assert {text: 26 <= plain.count(text) <= 27 for text in {e.text for e in HUMAN}} == {
        e.text: True for e in HUMAN
    }
    assert set(plain) == {e.text for e in HUMAN}
    assert len(set(read(1.0))) > 40
    assert read(1.0) == read(1.0)


def test_what_is_kept_for_measuring_is_not_read_in_other_words_either():
    assert any("spoon" in text for text in read(1.0, groups=1500))
    assert not any("spoon" in text for text in read(1.0, forbidden="spoon", groups=1500))


def test_without_human_sentences_there_are_no_groups():
    assert not list(human_groups([], SKILLS, random.Random(1), size=2, varied_share=0.5,
                                 allows=lambda text: True))  # fmt: skip
