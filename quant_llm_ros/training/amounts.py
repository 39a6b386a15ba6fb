"""Amounts as people say them, made up within the limits of an argument."""

from __future__ import annotations

import math
import random

from quant_llm_ros.command.skills import Argument
from quant_llm_ros.command.units import (
    number_words,
    ONES,
    SMALLER,
    TENS,
    UNIT_WORDS,
    written_number,
)

_ATTEMPTS = 12
# Nobody says «0.02 kilometers» or «twelve thousand millimeters».
_LEAST = {"km": 0.1, "mi": 0.1, "h": 0.25, "kg": 0.1, "l": 0.1, "ft": 0.5, "yd": 0.5}
_MOST = {"m": 12, "mm": 900, "cm": 400, "in": 60, "ft": 30, "yd": 15, "km": 5, "h": 12, "l": 10,
         "kg": 20, "s": 300}  # fmt: skip
_ROUND = (
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15, 16, 18, 20, 22, 24, 25, 30, 33, 35, 40, 45, 48,
    50, 55, 60, 65, 70, 75, 80, 85, 90, 95, 100, 110, 120, 125, 135, 140, 150, 160, 170, 175, 180,
    190, 200, 225, 240, 250, 270, 280, 300, 315, 330, 350, 360, 400, 450, 500, 600, 700, 750, 800,
    900, 1000, 1200, 1500, 2000, 2500, 3000, 5000, 10000,
)  # fmt: skip


def say_amount(
    rng: random.Random, argument: Argument, *, outside: bool = False
) -> tuple[list[str], str]:
    """Say an amount that an argument accepts, or one that lies outside its limits.

    Args:
        rng: Source of chance.
        argument: A QUANTITY.
        outside: Whether the amount must lie outside the limits.

    Returns:
        The words, and the amount as it is written in a call: ``(["two", "feet"], "2 ft")``.

    Raises:
        ValueError: There is no amount outside the limits, since there are none.
    """
    for _ in range(_ATTEMPTS):
        unit = rng.choice(list(argument.factors))
        factor = argument.factors[unit]
        if argument.max / factor < _LEAST.get(unit, 0.0) and not outside:
            continue
        if outside:
            value = round(_outside(rng, argument, factor), 4)
            words = _plain(rng, value, unit)
        else:
            value, words = _inside(rng, argument, unit, factor)
        written = written_number(value)
        within = argument.min <= float(written) * factor <= argument.max
        if within != outside and value < 1e6 and float(written) == value:
            return words, f"{written} {unit}"
    if outside:
        raise ValueError(f"{argument.name} has no value outside its limits")
    # Limits that are narrow in every unit: the middle, in the unit of the decision.
    unit = min(argument.factors, key=lambda u: abs(argument.factors[u] - 1.0))
    low, high = _limits(argument, argument.factors[unit])
    value = float(f"{(low + high) / 2:.3g}")
    return _plain(rng, value, unit), f"{written_number(value)} {unit}"


def has_limit(argument: Argument) -> bool:
    """Tell whether some amount lies outside the limits of an argument."""
    return math.isfinite(argument.max) or (math.isfinite(argument.min) and argument.min > 0)


def _limits(argument: Argument, factor: float) -> tuple[float, float]:
    low = max(argument.min, 0.0) / factor if math.isfinite(argument.min) else 0.0
    high = argument.max / factor if math.isfinite(argument.max) else max(100.0, 4 * low)
    return low, min(high, 999999.0)


def _outside(rng: random.Random, argument: Argument, factor: float) -> float:
    low, high = _limits(argument, factor)
    if math.isfinite(argument.max) and (argument.min <= 0 or rng.random() < 0.85):
        value = high * rng.choice((1.1, 1.25, 1.5, 2, 2, 3, 5, 10, 20, 50, 100)) + rng.choice(
            (0, 1, 2)
        )
        if value >= 10:
            digits = 1 if rng.random() < 0.5 else 2
            value = round(value, digits - len(str(int(value))))
        else:
            value = float(math.ceil(value))
    else:
        value = float(f"{low * rng.choice((0.0, 0.1, 0.2, 0.5)):.1g}")
    return float(value)


def _inside(
    rng: random.Random, argument: Argument, unit: str, factor: float
) -> tuple[float, list[str]]:
    low, high = _limits(argument, factor)
    chance = rng.random()
    if unit == "turn" and chance < 0.8:
        return _turns(rng)
    if chance < 0.14 and unit not in ("deg", "%", "percent", "degC", "rpm", "mm", "cm"):
        return _fraction(rng, unit)
    if chance < 0.20 and unit in SMALLER:
        return _two_units(rng, unit, argument)
    if chance < 0.23 and low <= 2 <= high:
        return 2.0, [
            "a",
            "couple",
            "of",
            *rng.choice(UNIT_WORDS.get(unit, ((), (unit,)))[1]).split(),
        ]
    if chance < 0.33 and unit not in ("deg", "%", "percent", "cm", "mm"):
        value = round(rng.uniform(max(low, 0.1), min(high, 20.0)), rng.choice((1, 1, 1, 2)))
        return value, _plain(rng, value, unit)
    reach = min(high, max(low * 4, _MOST.get(unit, high)))
    fitting = [n for n in _ROUND if low <= n <= reach] or [n for n in _ROUND if low <= n <= high]
    if fitting and rng.random() < 0.8:
        value = float(rng.choice(fitting))
    elif high - low > 2:
        value = float(rng.randint(math.ceil(low), int(min(high, reach * 1.2))))
    else:
        value = round(rng.uniform(low, high), 2 if high - low < 1 else 1)
    return value, _plain(rng, value, unit)


def _plain(rng: random.Random, value: float, unit: str) -> list[str]:
    singular, plural, written = UNIT_WORDS.get(unit, ((unit,), (unit,), (unit,)))
    name = rng.choice(singular if value == 1 else plural)
    chance = rng.random()
    if chance < 0.16:
        behind = rng.choice(written)
        if behind in ("degrees", "turns", "days", "inch", "cups"):
            return [written_number(value), behind]
        return [f"{written_number(value)}{behind}"]
    if chance < 0.24:
        return [written_number(value), rng.choice(written)]
    if chance < 0.45:
        return [written_number(value), *name.split()]
    if value == 1 and rng.random() < 0.5:
        return ["an" if name[0] in "aeiou" or name == "hour" else "a", *name.split()]
    return [*_spoken(rng, value), *name.split()]


def _spoken(rng: random.Random, value: float) -> list[str]:
    if value == int(value):
        words = number_words(int(value)).split()
        if words[:2] == ["one", "hundred"] and rng.random() < 0.4:
            words[0] = "a"
        if "hundred" in words[:-1] and rng.random() < 0.3:
            words.insert(words.index("hundred") + 1, "and")
        elif len(words) == 2 and words[0] in TENS and rng.random() < 0.3:
            words = ["-".join(words)]
        return words
    whole, fraction = written_number(value).split(".")
    if fraction == "5" and rng.random() < 0.5 and whole != "0":
        return [*number_words(int(whole)).split(), "and", "a", "half"]
    return [*number_words(int(whole)).split(), "point", *(ONES[int(d)] for d in fraction)]


def _turns(rng: random.Random) -> tuple[float, list[str]]:
    value, words = rng.choice(
        (
            (0.25, "a quarter turn"), (0.25, "a quarter of a turn"), (0.25, "one quarter turn"),
            (0.5, "half a turn"), (0.5, "a half turn"), (0.5, "half a revolution"),
            (0.75, "three quarters of a turn"), (0.75, "three quarter turns"),
            (1.0, "a full turn"), (1.0, "one full turn"), (1.0, "a whole turn"),
            (1.0, "one complete rotation"), (0.125, "an eighth of a turn"),
        )
    )  # fmt: skip
    return value, words.split()


def _fraction(rng: random.Random, unit: str) -> tuple[float, list[str]]:
    singular, plural, _ = UNIT_WORDS.get(unit, ((unit,), (unit,), (unit,)))
    one, many = rng.choice(singular), rng.choice(plural)
    article = "an" if one[0] in "aeio" or one == "hour" else "a"
    whole = rng.choice((1, 1, 2, 2, 3, 4, 5, 6))
    spoken = number_words(whole)
    value, words = rng.choice(
        (
            (0.5, f"half {article} {one}"),
            (0.5, f"half {article} {one}"),
            (0.25, f"a quarter of {article} {one}"),
            (0.75, f"three quarters of {article} {one}"),
            (whole + 0.5, f"{spoken} and a half {many}"),
            (whole + 0.5, f"{spoken} and a half {many}"),
            (whole + 0.5, f"{whole} and a half {many}"),
            (1.5, f"{article} {one} and a half"),
            (whole + 0.25, f"{spoken} and a quarter {many}"),
        )
    )
    return value, words.split()


def _two_units(rng: random.Random, unit: str, argument: Argument) -> tuple[float, list[str]]:
    smaller, per, usual = SMALLER[unit]
    count, add = rng.choice((1, 1, 2, 2, 3, 4, 5)), rng.choice(usual)
    singular, plural, _ = UNIT_WORDS[unit]
    spoken = rng.random() < 0.6
    words = [number_words(count) if spoken else str(count)]
    words.append(rng.choice(singular if count == 1 else plural))
    if rng.random() < 0.4:
        words.append("and")
        named = True
    else:
        named = rng.random() < 0.5 and unit in ("m", "ft", "h", "min", "kg")
    words += number_words(add).split() if spoken else [str(add)]
    if named or unit == "kg":
        words.append(rng.choice(UNIT_WORDS[smaller][1]))
    return count + add / per, words
