"""Words for things, places, people and sentences, and how they stand in a sentence.

Each file in ``config/training/lexicons`` maps names of lexicons to ``words`` (separated by
commas), ``kind`` (what may be referred to by which pronoun), ``determiner`` and ``adjectives``. A
word ending in ``*`` is a plural, in ``~`` a mass noun, and one that begins with ``=`` a proper
name. A word may be a pattern: ``room {#1-40}``. ``include`` names lexicons whose words belong to
it too.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
from pathlib import Path
import random
from typing import Any, Protocol

import yaml

from quant_llm_ros.errors import DatasetError
from quant_llm_ros.resources import share_path
from quant_llm_ros.training.pattern import compile_pattern, Pattern, Said, Span, Speaker

_DETERMINERS: dict[str, tuple[str, ...]] = {
    "thing": ("the",) * 11
    + ("my",) * 3
    + ("a",) * 3
    + ("",) * 2
    + ("that", "this", "our", "your"),
    "device": ("the",) * 14 + ("my",) * 3 + ("",) * 2 + ("that", "this"),
    "place": ("the",) * 15 + ("my",) + ("",) * 2 + ("our", "that", "this"),
    "role": ("the",) * 9 + ("that", "this", "a"),
    "relative": ("my",) * 8 + ("our", "his", "her", "their"),
    "the": ("the",),
    "none": ("",),
}
_ONE = frozenset(("a", "that", "this"))
_MANY = {"a": "some", "that": "those", "this": "these"}
_POINTING = frozenset(("first", "last", "next", "second", "other", "left", "right", "main"))
_ADJECTIVE_SHARES = (0.62, 0.94)
"""Below the first no adjective is said, below the second one, above it two."""
_ATTRIBUTE_SHARE = 0.04
_COUNT_SHARE = 0.12
"""How often several things are counted; the count belongs to the name."""
_COUNTS = ("two", "two", "three", "three", "four", "five", "six", "ten", "both", "all the", "all",
           "a few", "several", "2", "3", "a couple of")  # fmt: skip
_LOCATION_SHARE = 0.3


@dataclasses.dataclass(frozen=True)
class Entry:
    """One name: its words, or a pattern of them."""

    words: tuple[str, ...]
    pattern: Pattern | None
    number: str
    """``one``, ``many``, ``mass`` or ``name``."""


@dataclasses.dataclass(frozen=True)
class Lexicon:
    """Names of one sort."""

    name: str
    kind: str
    determiners: tuple[str, ...]
    adjectives: tuple[tuple[str, ...], ...]
    entries: tuple[Entry, ...]

    @functools.cached_property
    def names(self) -> Mapping[tuple[str, ...], Entry]:
        """Entries by their words, without those that are patterns."""
        return {entry.words: entry for entry in self.entries if entry.pattern is None}

    def speak(self, said: Said, speaker: Lexicographer, how: str = "") -> Span:
        """Say a name with what stands before and behind it.

        Args:
            said: Grows by the words.
            speaker: Who speaks.
            how: ``!`` nothing behind the name, ``+`` perhaps where the thing is.

        Returns:
            The name without its determiner.
        """
        rng = speaker.rng
        entry = self.entries[int(rng.random() * len(self.entries))]
        counted = self.kind == "thing" and entry.number == "many" and rng.random() < _COUNT_SHARE
        determiner = "" if entry.number == "name" or counted else rng.choice(self.determiners)
        if determiner:
            said.add(determiner)
        start = len(said.words)
        if counted:
            said.words.extend(pick(rng, _COUNTS).split())
        if self.adjectives and entry.number != "name":
            self._adjectives(said, rng, determiner == "a")
        if entry.pattern is None:
            said.words.extend(entry.words)
        else:
            entry.pattern.speak(said, speaker)
        if determiner in _ONE and (entry.number != "one" or determiner == "a"):
            said.words[start - 1] = _agreeing(determiner, entry.number, said.words[start])
        if self.kind in ("thing", "device", "openable") and how != "!":
            if rng.random() < _ATTRIBUTE_SHARE:
                rng.choice(speaker.lexicons.attributes).speak(said, speaker)
            if how == "+" and rng.random() < _LOCATION_SHARE:
                rng.choice(speaker.lexicons.locations).speak(said, speaker)
        said.plural = entry.number == "many"
        return Span(start, len(said.words), self.kind, said.plural)

    def _adjectives(self, said: Said, rng: random.Random, indefinite: bool) -> None:
        chance = rng.random()
        if chance < _ADJECTIVE_SHARES[0]:
            return
        sort = rng.choice(self.adjectives)
        word = pick(rng, sort)
        if indefinite and (word.endswith("est") or word in _POINTING):
            return
        words = word.split()
        other = rng.choice(self.adjectives)
        if chance > _ADJECTIVE_SHARES[1] and other is not sort:
            second = pick(rng, other)
            pointing = second in _POINTING or second.endswith("est")
            # «The second small red wooden box», in this order.
            first = pointing or self.adjectives.index(other) < self.adjectives.index(sort)
            if not (pointing and indefinite):
                words = [*second.split(), *words] if first else [*words, *second.split()]
        said.words.extend(words)


class Lexicographer(Speaker, Protocol):
    """A speaker who has the lexicons at hand."""

    lexicons: Lexicons


def _agreeing(determiner: str, number: str, following: str) -> str:
    if number == "many":
        return _MANY[determiner]
    if number == "mass":
        return "some" if determiner == "a" else determiner
    return "an" if determiner == "a" and following[0].casefold() in "aeiou" else determiner


@dataclasses.dataclass(frozen=True)
class Lexicons:
    """All lexicons, and what can stand behind a thing."""

    by_name: Mapping[str, Lexicon]
    attributes: tuple[Pattern, ...]
    locations: tuple[Pattern, ...]
    words: Mapping[str, tuple[str, ...]]
    """Plain word lists: adjectives by sort, first names and the like."""

    def __getitem__(self, name: str) -> Lexicon:
        """Give a lexicon by name."""
        try:
            return self.by_name[name]
        except KeyError:
            raise DatasetError(
                f"config/training/lexicons: there is no lexicon {name!r}; add it, or correct it"
            ) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from a data file.

    Raises:
        DatasetError: The file is no YAML mapping.
    """
    try:
        data = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: {error}") from error
    if not isinstance(data, dict):
        raise DatasetError(f"{path}: must be a mapping")
    return data


def patterns(value: Any) -> tuple[Pattern, ...]:
    """Compile a list of patterns.

    Raises:
        DatasetError: One of them is malformed.
    """
    try:
        return tuple(compile_pattern(str(item)) for item in value or ())
    except ValueError as error:
        raise DatasetError(f"config/training: {error}") from error


@functools.lru_cache(maxsize=1)
def load_lexicons() -> Lexicons:
    """Read all lexicons of ``config/training/lexicons``."""
    raw: dict[str, dict[str, Any]] = {}
    words: dict[str, tuple[str, ...]] = {}
    behind: dict[str, tuple[Pattern, ...]] = {}
    for path in sorted(share_path("config/training/lexicons").glob("*.yaml")):
        for name, value in read_yaml(path).items():
            if name in raw or name in words:
                raise DatasetError(f"{path}: the lexicon {name!r} is defined twice")
            if name in ("attributes", "locations"):
                behind[name] = patterns(value)
            elif isinstance(value, str):
                words[name] = tuple(_split(value))
            else:
                raw[name] = value
    by_name = {}
    for name, value in raw.items():
        sorts = sorted(str(value.get("adjectives", "")).split(), key=_order)
        by_name[name] = Lexicon(
            name=name,
            kind=value.get("kind", "thing"),
            determiners=_DETERMINERS[value.get("determiner", "thing")],
            adjectives=tuple(words[sort] for sort in sorts),
            entries=tuple(_entry(text) for text in _included(name, raw)),
        )
    return Lexicons(by_name, behind["attributes"], behind["locations"], words)


def _order(sort: str) -> int:
    """Tell where the adjectives of a sort stand among others."""
    return {"look": 0, "size": 1, "state": 2, "colour": 3, "material": 4}.get(sort, 0)


def _split(text: str) -> list[str]:
    return [" ".join(part.split()) for part in text.split(",") if part.strip()]


def _included(name: str, raw: Mapping[str, dict[str, Any]]) -> list[str]:
    own = _split(raw[name].get("words", ""))
    for other in str(raw[name].get("include", "")).split():
        own += _included(other, raw)
    return own


def _entry(text: str) -> Entry:
    number = {"*": "many", "~": "mass"}.get(text[-1], "one")
    if text.startswith("="):
        text, number = text[1:], "name"
    text = text.rstrip("*~")
    pattern = compile_pattern(text) if any(c in text for c in "{([") else None
    return Entry(tuple(text.split()), pattern, number)


def pick(rng: random.Random, items: tuple[str, ...]) -> str:
    """Take one of the items; quicker than ``rng.choice``."""
    return items[int(rng.random() * len(items))]
