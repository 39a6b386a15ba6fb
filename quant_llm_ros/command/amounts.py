"""Amounts in a sentence: numbers with units, as people say and as recognizers write them.

An amount in a decision must be one that was said. So they are read here, by rules, and the model
only chooses which of them an argument means.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
import dataclasses
import functools
import math
import re

from rapidfuzz.distance import OSA

from quant_llm_ros.command.units import fits, ONES, SMALLER, TENS, UNIT_WORDS, written_number

_BELOW_HUNDRED = {
    **{word: float(value) for value, word in enumerate(ONES)},
    **{word: value * 10.0 for value, word in enumerate(TENS) if word},
}
_FRACTIONS = {
    "half": 2, "halves": 2, "quarter": 4, "quarters": 4, "third": 3, "thirds": 3, "fourth": 4,
    "fifth": 5, "fifths": 5, "sixth": 6, "eighth": 8, "eighths": 8, "tenth": 10, "tenths": 10,
}  # fmt: skip
_SCALES = {"hundred": 100.0, "thousand": 1000.0, "million": 1e6}
_ARTICLES = frozenset(("a", "an", "another"))
_WHOLE = frozenset(("full", "complete", "whole", "entire"))
_BETWEEN = _WHOLE | {"more", "further", "additional", "extra", "good"}
_HESITATIONS = frozenset(("uh", "um", "er", "erm", "hmm", "like", "well"))
# What recognizers write for a number word, right before a unit in the plural.
_HOMOPHONES = {"to": 2.0, "too": 2.0, "for": 4.0, "ate": 8.0}
_SEVERAL = frozenset(word for forms in UNIT_WORDS.values() for word in forms[1])
_DIGITS = re.compile(r"[-+]?\d+(?:\.\d+)?")
_GLUED = re.compile(r"([-+]?\d+(?:\.\d+)?)-?([^\W\d_][\w/]*|°[CF]?|%)")
_RATIO = re.compile(r"(\d{1,3})/(\d{1,3})")
# What may follow an amount whose smaller unit was left out: «one meter seventy to the left».
_AFTER = frozenset(("forward", "forwards", "backward", "backwards", "back", "left", "right",
                    "ahead", "up", "down", "and", "then", "please", "to", "per", "straight",
                    "now", "for", ""))  # fmt: skip
# Behind «2 in» these begin where something is.
_AFTER_INSIDE = frozenset(("the", "a", "an", "my", "your", "our", "his", "her", "their", "this",
                           "that", "there", "here"))  # fmt: skip
_MAX_UNIT_WORDS = 3
_SHORTEST_MISSPELT = 5


@dataclasses.dataclass(frozen=True)
class Amount:
    """An amount that was said.

    Attributes:
        value: The number.
        units: Units that the words may mean, by their short names: «degrees» are ``deg`` or
            ``degC``.
        start: Index of its first word.
        end: Index behind its last word.
    """

    value: float
    units: tuple[str, ...]
    start: int
    end: int

    def written(self, unit: str, units: Sequence[str]) -> str | None:
        """Write the amount as calls have it, for example ``2.5 m``.

        Args:
            unit: Unit of the decision.
            units: Units of the registry that come first where several fit.

        Returns:
            The text, or None where the amount measures something else than ``unit``.
        """
        known = [own for own in self.units if own in units]
        for own in known or self.units:
            if own in units or fits(own, unit):
                return f"{written_number(self.value)} {own}"
        return None


def find_amounts(words: Sequence[str], extra_units: Sequence[str] = ()) -> list[Amount]:
    """Find every amount in a sentence, from left to right, each as long as it can be.

    Args:
        words: Words of the sentence; see ``text.words``.
        extra_units: Units of a registry beside those that are generally known.
    """
    reader = _Reader(words, tuple(extra_units))
    found: list[Amount] = []
    at = 0
    while at < len(words):
        amount = reader.amount(at)
        if amount is None:
            at += 1
        else:
            found.append(amount)
            at = amount.end
    return found


@functools.lru_cache(maxsize=64)
def _unit_names(extra: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
    names: dict[str, list[str]] = {}
    known = {unit: UNIT_WORDS.get(unit, ((unit,), (f"{unit}s",), (unit,))) for unit in extra}
    for unit, forms in {**UNIT_WORDS, **known}.items():
        for name in (unit, *forms[0], *forms[1], *forms[2]):
            units = names.setdefault(name.casefold(), [])
            if unit not in units:
                units.append(unit)
    return {name: tuple(units) for name, units in names.items()}


class _Reader:
    """Reads amounts of one sentence; each method gives what it read and where it ended."""

    def __init__(self, words: Sequence[str], extra_units: tuple[str, ...]) -> None:
        self._names = _unit_names(extra_units)
        self._words = [word.casefold().rstrip(".") for word in words]

    def amount(self, start: int) -> Amount | None:
        for value, at, bare in self._numbers(start):
            unit = self._unit(at, value, bare, start)
            if unit is None:
                continue
            units, at = unit
            if bare and "turn" in units:
                continue  # «take a turn» is no full turn
            value, at = self._tail(value, units, at)
            return Amount(value, units, start, at)
        return None

    def _numbers(self, start: int) -> Iterator[tuple[float, int, bool]]:
        """Give readings of a number: its value, where it ends, whether it is just an article."""
        word = self._word(start)
        glued = _GLUED.fullmatch(word)
        if glued and glued[2] in self._names:
            yield float(glued[1]), start, False
            return
        at, sign = start, 1.0
        if word in ("minus", "negative"):
            at, sign = start + 1, -1.0
        read = self._number(at)
        if read is not None:
            value, at, bare = read
            yield sign * value, self._skip(self._skip(at, _HESITATIONS), _BETWEEN), bare
        elif word in _HOMOPHONES and self._several(start + 1):
            # «To meters» was «two meters», but «to turn» is what it says.
            yield _HOMOPHONES[word], start + 1, False

    def _several(self, at: int) -> bool:
        word = self._word(at)
        return word in self._names and (word in _SEVERAL or word.endswith("s"))

    def _number(self, at: int) -> tuple[float, int, bool] | None:
        article = self._word(at) in _ARTICLES
        first = self._skip(at + 1, _HESITATIONS) if article else at
        fraction = self._fraction(first, 1.0)
        if fraction is not None:
            return (*fraction, False)
        if self._word(first) in ("couple", "dozen"):
            value = 2.0 if self._word(first) == "couple" else 12.0
            return value, self._skip(first + 1, ("of",)), False
        whole = self._whole(first)
        if whole is None:
            if not article:
                return None
            kind = self._word(at + 1) in _WHOLE
            return 1.0, at + 1, not kind
        value, at = whole
        if self._word(at) == "dozen":
            return value * 12.0, at + 1, False
        parts = self._fraction(at, value)
        if parts is not None and self._word(at) in _FRACTIONS:
            return (*parts, False)  # «three quarters»
        return (*self._and_fraction(value, at), False)

    def _fraction(self, at: int, count: float) -> tuple[float, int] | None:
        """Read «half a», «quarters of a», «third of a» with the count before it."""
        word = self._word(at)
        ratio = _RATIO.fullmatch(word)
        if ratio and int(ratio[2]):
            return int(ratio[1]) / int(ratio[2]), self._behind_of(at + 1)
        if word not in _FRACTIONS:
            return None
        value = count / _FRACTIONS[word]
        if self._word(at + 1) in ("dozen",):
            return value * 12.0, at + 2
        if word == "half" and self._word(at + 1) in _ARTICLES and self._word(at + 2) == "dozen":
            return value * 12.0, at + 3
        return value, self._behind_of(at + 1)

    def _behind_of(self, at: int) -> int:
        if self._word(at) == "of":
            at += 1
        if self._word(at) in _ARTICLES or self._word(at) == "one":
            at += 1
        return at

    def _and_fraction(self, value: float, at: int) -> tuple[float, int]:
        """Read «and a half», «and three quarters», «1/2» behind a whole number."""
        ratio = _RATIO.fullmatch(self._word(at))
        if ratio and int(ratio[2]) and value == int(value):
            return value + int(ratio[1]) / int(ratio[2]), at + 1
        first = self._skip(at, _HESITATIONS)
        if self._word(first) != "and":
            return value, at
        first = self._skip(first + 1, _HESITATIONS)
        if self._word(first) in _ARTICLES:
            first += 1
        count = 1.0
        small = self._ones(first)
        if small is not None and 0 < small < 10:
            count, first = small, first + 1
        if self._word(first) not in _FRACTIONS:
            return value, at
        return value + count / _FRACTIONS[self._word(first)], first + 1

    def _whole(self, at: int) -> tuple[float, int] | None:
        """Read a number in digits or words, decimals included."""
        word = self._word(at)
        if _DIGITS.fullmatch(word):
            value = float(word)
            if self._word(at + 1) in _SCALES:
                return value * _SCALES[self._word(at + 1)], at + 2
            return value, at + 1
        value, end = 0.0, at
        if word != "point":
            cardinal = self._cardinal(at)
            if cardinal is None:
                return None
            value, end = cardinal
        if self._word(end) == "point":
            digits = ""
            after = end + 1
            while (ones := self._ones(self._skip(after, _HESITATIONS))) is not None and ones < 10:
                digits += str(int(ones))
                after = self._skip(after, _HESITATIONS) + 1
            if _DIGITS.fullmatch(self._word(after)) and not digits:
                digits, after = self._word(after).lstrip("+-"), after + 1
            if digits.isdigit():
                return value + float(f"0.{digits}"), after
        return (value, end) if end > at else None

    def _cardinal(self, at: int) -> tuple[float, int] | None:
        total, group, start = 0.0, 0.0, at
        last = math.inf
        while True:
            skipped = self._skip(at, _HESITATIONS) if at > start else at
            joined = self._word(skipped) == "and" and last >= 100
            here = skipped + 1 if joined else skipped
            word = self._word(here)
            if word in _SCALES and _SCALES[word] > 100 and (group or not total):
                total, group, last = total + max(group, 1.0) * _SCALES[word], 0.0, 1000
            elif word == "hundred" and group < 100:
                group, last = max(group, 1.0) * 100.0, 100
            else:
                part = self._below_hundred(here)
                if part is None:
                    break
                if last < 10 and part >= 10 and group == int(group) and 0 < group < 10:
                    group, last = group * 100.0 + part, 20  # «three sixty»
                elif last >= 100 or (last == 20 and 0 < part < 10):
                    group, last = group + part, 1 if part < 10 else 10 if part < 20 else 20
                else:
                    break
            at = here + 1
        return (total + group, at) if at > start else None

    def _below_hundred(self, at: int) -> float | None:
        word = self._word(at)
        if "-" in word:
            tens, _, ones = word.partition("-")
            if tens in TENS[2:] and ones in ONES[1:10]:
                return float(TENS.index(tens) * 10 + ONES.index(ones))
            return None
        return _BELOW_HUNDRED.get(_near(word, _BELOW_HUNDRED))

    def _ones(self, at: int) -> float | None:
        value = self._below_hundred(at)
        return value if value is not None and value < 20 else None

    def _unit(
        self, at: int, value: float, bare: bool, start: int
    ) -> tuple[tuple[str, ...], int] | None:
        word = self._word(at)
        glued = _GLUED.fullmatch(word)
        if glued and at == start:
            return self._names[glued[2]], at + 1
        for count in range(_MAX_UNIT_WORDS, 0, -1):
            name = " ".join(self._words[at : at + count])
            if count > 1 and name in self._names:
                return self._names[name], at + count
        digits = _DIGITS.fullmatch(self._word(at - 1)) is not None
        if word == "in" and (not digits or self._word(at + 1) in _AFTER_INSIDE):
            return None
        if len(word) == 1 and word.isalpha() and not digits:
            return None  # «a m» is no meter
        near = word if word in self._names else _near(word, self._names)
        return (self._names[near], at + 1) if near in self._names else None

    def _tail(self, value: float, units: tuple[str, ...], at: int) -> tuple[float, int]:
        """Read what goes on behind the unit: «and a half», «six inches», «seventy»."""
        with_half, end = self._and_fraction(value, at)
        if end > at and value == int(value):
            following = self._unit(end, value, False, -1)
            if following is None:
                return with_half, end
        smaller = next((SMALLER[unit] for unit in units if unit in SMALLER), None)
        if smaller is None or value != int(value):
            return value, at
        name, per, _ = smaller
        first = self._skip(at, ("and",))
        part = self._whole(first)
        if part is None or part[0] >= per or part[0] <= 0:
            return value, at
        number, end = part
        unit = self._unit(end, number, False, -1)
        if unit is not None and name in unit[0]:
            return value + number / per, unit[1]
        bare = unit is None and first == at and self._is_last_part(end)
        if bare and (number >= 10 or name != "cm"):
            return value + number / per, end
        return value, at

    def _is_last_part(self, at: int) -> bool:
        # «one meter seventy» but not «one meter two cups»: what follows must not be counted.
        return self._word(at) in _AFTER

    def _skip(self, at: int, words: Sequence[str] | frozenset[str]) -> int:
        while at < len(self._words):
            pair = f"{self._word(at)} {self._word(at + 1)}"
            if self._word(at) in words:
                at += 1
            elif words is _HESITATIONS and pair in ("you know", "i mean"):
                at += 2
            else:
                break
        return at

    def _word(self, at: int) -> str:
        return self._words[at] if 0 <= at < len(self._words) else ""


def _near(word: str, known: Collection[str]) -> str:
    """Mend one wrong letter in a long word."""
    if word in known or len(word) < _SHORTEST_MISSPELT or word in _NOT_MISSPELT:
        return word
    for other in known:
        # An added letter makes a long word of a shorter one.
        long_enough = len(other) >= _SHORTEST_MISSPELT - 1
        if long_enough and OSA.distance(word, other, score_cutoff=1) <= 1:
            return other
    return word


# Words of their own that are one letter away from a number or a unit.
_NOT_MISSPELT = frozenset((
    "right", "light", "night", "might", "fight", "sight", "tight", "weight", "height", "there",
    "these", "sever", "forth", "sixth", "thirsty", "times", "tiles", "files", "piles", "smiles",
    "letter", "letters", "matter", "matters", "better", "later", "water", "waters", "turned",
    "returns", "cards", "sounds", "rounds",
))  # fmt: skip
