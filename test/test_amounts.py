"""Amounts as people say them: read from sentences, and made up for training."""

from __future__ import annotations

import random

import pytest

from quant_llm_ros.command.amounts import find_amounts
from quant_llm_ros.command.skills import ArgumentType
from quant_llm_ros.command.text import words
from quant_llm_ros.command.units import number_words, written_number
from quant_llm_ros.training.amounts import has_limit, say_amount
from quant_llm_ros.training.corpus import default_kind, other_kinds


def read(sentence, unit="m", units=("m", "cm", "ft", "in")):
    """Give the amounts of a sentence as calls have them."""
    return [a.written(unit, units) for a in find_amounts(words(sentence), units)]


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
    assert read(f"{said} meters") == [f"{number} m"]


@pytest.mark.parametrize(
    ("said", "amount"),
    [
        ("two meters", "2 m"),
        ("half a meter", "0.5 m"),
        ("three and a half feet", "3.5 ft"),
        ("three and three quarter feet", "3.75 ft"),
        ("two and one third meters", "2.3333 m"),
        ("a meter and a half", "1.5 m"),
        ("three quarters of a meter", "0.75 m"),
        ("1/2 meter", "0.5 m"),
        ("2 1/2 m", "2.5 m"),
        ("20 centimetres", "20 cm"),
        ("a couple of meters", "2 m"),
        ("a dozen feet", "12 ft"),
        ("half a dozen meters", "6 m"),
        ("1.5m", "1.5 m"),
        ("a meter", "1 m"),
        ("another two meters", "2 m"),
        ("two more meters", "2 m"),
        ("two feet six inches", "2.5 ft"),
        ("three feet and six inches", "3.5 ft"),
        ("five foot six to the left", "5.5 ft"),
        ("one metre seventy", "1.7 m"),
        ("one meter ten", "1.1 m"),
        ("one point two five meters", "1.25 m"),
        ("point five meters", "0.5 m"),
        ("a hundred and twenty centimeters", "120 cm"),
        ("seventy-five centimeters", "75 cm"),
        ("two uh hundred um centimeters", "200 cm"),
        ("twnety meteres", "20 m"),
        ("drive to meters", "2 m"),
        ("three miles", "3 mi"),
        ("a million meters", "1000000 m"),
    ],
)
def test_distances_as_people_say_them(said, amount):
    assert read(said) == [amount]


@pytest.mark.parametrize(
    "said",
    [
        "two",
        "two bananas",
        "meters",
        "point",
        "the third door on the right",
        "put two in the kitchen",
        "my left foot",
        "thirty degrees",
    ],
)
def test_no_distances(said):
    assert [amount for amount in read(said) if amount] == []


@pytest.mark.parametrize(
    ("said", "amount"),
    [
        ("turn left 45 degrees", "45 deg"),
        ("turn left 45°", "45 deg"),
        ("turn left 45 °", "45 deg"),
        ("turn three sixty degrees", "360 deg"),
        ("turn one eighty degrees", "180 deg"),
        ("half a turn", "0.5 turn"),
        ("a third of a turn", "0.3333 turn"),
        ("one complete turn", "1 turn"),
        ("three quarter turns", "0.75 turn"),
        ("minus 5 degrees", "-5 deg"),
    ],
)
def test_angles_as_people_say_them(said, amount):
    assert read(said, "deg", ("deg", "rad", "turn")) == [amount]


def test_a_turn_is_not_a_full_turn():
    assert read("make a right turn, then take a turn", "deg", ("deg", "turn")) == []


def test_to_turn_is_not_two_turns():
    """What sounds like a number is one only before a unit in the plural."""
    assert read("you need to turn about seventy degrees", "deg", ("deg", "turn")) == ["70 deg"]
    assert read("be ready to inch forward") == []


def test_several_amounts_stay_apart():
    said = "forward 3 meters, right 45 degrees, back fifty centimeters"
    assert read(said) == ["3 m", None, "50 cm"]


def test_units_of_a_registry_come_first():
    (degrees,) = find_amounts(["twenty", "degrees"])
    assert degrees.written("degC", ("degC",)) == "20 degC"
    assert degrees.written("deg", ("deg", "rad")) == "20 deg"
    assert degrees.written("m", ("m",)) is None


def test_units_that_nobody_listed():
    assert read("at 3 lux", "lux", ("lux",)) == ["3 lux"]


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
                    for _ in range(10):
                        said, written = say_amount(rng, argument, outside=outside)
                        number, _, unit = written.partition(" ")
                        value = float(number) * argument.factors[unit]
                        within = argument.min <= value <= argument.max
                        assert within != outside, (skill.name, said, written)
                        assert number == written_number(float(number))


def test_amounts_are_read_as_they_are_written():
    rng = random.Random(2)
    for kind in (default_kind(), *other_kinds()):
        for skill in kind.registry.skills.values():
            for argument in skill.arguments:
                if argument.type is not ArgumentType.QUANTITY:
                    continue
                units = tuple(argument.factors)
                for _ in range(20):
                    said, written = say_amount(rng, argument)
                    if said[-1] == "turn" and said[0] == "a" and len(said) == 2:
                        continue  # which is no amount
                    found = [a.written(argument.unit, units) for a in find_amounts(said, units)]
                    assert found in ([written], []), (said, written)
