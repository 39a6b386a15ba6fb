"""The real model: valid decisions on random strings, and the README's partly served commands."""

import random

import pytest

from quant_llm_ros.command.decision import Status
from quant_llm_ros.command.evaluation import fits
from quant_llm_ros.command.understander import Understander

COUNT = 1000

_WORDS = r"""
go to the kitchen and bring me a red cup then turn left 90 degrees please move forward two meters
3.5 stop open close (door); find=it ? unknown robot! what, is <|im_end|> <|im_start|> assistant
move(direction=forward) {"skill": 0} ' " \ // % 1e9 -5 kilometers
""".split()  # noqa: SIM905 (these are words as they are typed)


def random_text(rng):
    """Make a text of one of many kinds, from words to bytes."""
    kind = rng.randrange(5)
    if kind == 0:
        return "".join(chr(rng.randrange(32, 127)) for _ in range(rng.randrange(1, 60)))
    if kind == 1:
        return "".join(chr(rng.randrange(1, 0x3000)) for _ in range(rng.randrange(1, 40)))
    if kind == 2:
        raw = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 40)))
        return raw.decode("utf-8", "surrogateescape")
    if kind == 3:
        return "\U0001f916" * rng.randrange(1, 20) + " " + rng.choice(_WORDS)
    return " ".join(rng.choice(_WORDS) for _ in range(rng.randrange(1, 15)))


@pytest.mark.slow
@pytest.mark.bundle
def test_every_decision_is_valid(bundle_path):
    """1,000 random strings: calls fit the registry, and only damaged text is an ERROR."""
    rng = random.Random(20261121)
    understander = Understander.open(bundle_path)
    statuses = []
    for _ in range(COUNT):
        text = random_text(rng)
        decision = understander.understand(text)
        assert decision.text == text
        assert all(fits(call, understander.skills) for call in decision.calls), decision
        if decision.status is Status.ERROR:
            assert "not valid Unicode" in decision.message, decision
        statuses.append(decision.status)
    understander.close()
    assert len(set(statuses)) >= 3


@pytest.mark.bundle
def test_what_no_skill_serves_is_said(bundle_path):
    understander = Understander.open(bundle_path)
    last = understander.understand("go to the kitchen and water the plants")
    first = understander.understand("mop the floor and then go to the kitchen")
    understander.close()
    assert (last.status, last.unserved) == (Status.ACCEPTED, ("water the plants",))
    assert last.outline == "go_to(place=kitchen); no skill serves 'water the plants'"
    assert (first.status, first.unserved) == (Status.CLARIFY, ("mop the floor",))
    assert first.message.startswith(
        "no skill serves 'mop the floor', and something comes after it"
    )
