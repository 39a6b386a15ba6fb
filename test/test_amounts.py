"""Numbers and amounts as people say them, against how calls write them."""

from __future__ import annotations

import random

import pytest

from quant_llm_ros.command.skills import ArgumentType
from quant_llm_ros.training.amounts import (
    has_limit,
    number_words,
    read_number,
    say_amount,
    written_number,
)
from quant_llm_ros.training.corpus import default_kind, other_kinds
from quant_llm_ros.training.from_examples import read_amount


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "zero"),
        (7, "seven"),
        (13, "thirteen"),
        (40, "forty"),
        (42, "forty two"),
        (100, "one hundred"),
        (215, "two hundred fifteen"),
        (3000, "three thousand"),
        (12345, "twelve thousand three hundred forty five"),
    ],
)
def test_number_words(number, said):
    assert number_words(number) == said
    assert read_number(said.split()) == number


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("two and a half", 2.5),
        ("half a", 0.5),
        ("a quarter of a", 0.25),
        ("three quarters of a", 0.75),
        ("one point two five", 1.25),
        ("a hundred and twenty", 120),
        ("seventy-five", 75),
        ("1.5", 1.5),
        ("a couple of", 2),
        ("a", 1),
        ("meters", None),
        ("point", None),
    ],
)
def test_numbers_as_people_say_them(said, number):
    assert read_number(said.split()) == number


@pytest.mark.parametrize(
    ("said", "amount"),
    [
        ("two meters", "2 m"),
        ("half a meter", "0.5 m"),
        ("three and a half feet", "3.5 ft"),
        ("20 centimetres", "20 cm"),
        ("a couple of meters", "2 m"),
        ("1.5m", "1.5 m"),
        ("a meter", "1 m"),
        ("two", None),
        ("two bananas", None),
    ],
)
def test_amounts_as_people_say_them(said, amount):
    assert read_amount(said.split(), ("m", "cm", "ft")) == amount


def test_amounts_lie_where_they_are_wished():
    rng = random.Random(1)
    for kind in (default_kind(), *other_kinds()):
        for skill in kind.registry.skills.values():
            for argument in skill.arguments:
                if argument.type is not ArgumentType.QUANTITY:
                    continue
                for outside in (False, True):
                    if outside and not has_limit(argument):
                        continue
                    for _ in range(40):
                        said, written = say_amount(rng, argument, outside=outside)
                        number, _, unit = written.partition(" ")
                        value = float(number) * argument.factors[unit]
                        within = argument.min <= value <= argument.max
                        assert within != outside, (skill.name, said, written)
                        assert number == written_number(float(number))


def test_simple_amounts_read_as_they_are_written():
    rng = random.Random(2)
    distance = default_kind().registry.skills["move"].arguments[1]
    known = 0
    for _ in range(300):
        said, written = say_amount(rng, distance)
        amount = read_amount(said, tuple(distance.factors))
        known += amount == written
        # «One meter fifty» and «two feet six» are read from the front only.
        assert amount in (written, None) or len(said) > 3, (said, written)
    assert known > 230
