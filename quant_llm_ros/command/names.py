"""Known names of places and things, and which of them a person means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import dataclasses

from rapidfuzz import fuzz, process

from quant_llm_ros.command.text import bare_name
from quant_llm_ros.command.units import number_words, ONES, TENS

_SAME = 84.0
"""Least similarity of a misspelt name, 0 to 100 (normalized Indel similarity)."""
_NUMBERS = frozenset((*ONES, *TENS, "hundred", "first", "second", "third", "left", "right"))
_MOST_ASKED = 3
# Where the speaker or another person is: a place that no list of places has.
_PERSONAL = frozenset({"me", "us", "here", "you", "him", "her", "them", "everyone", "everybody"})


@dataclasses.dataclass(frozen=True)
class Match:
    """What a name may stand for.

    Attributes:
        name: The one known name that is meant, or "".
        options: Known names that could be meant where it is not clear; empty: none is near.
    """

    name: str
    options: tuple[str, ...] = ()


class KnownNames:
    """Names of one sort, each with its other names. Empty: every name is accepted."""

    def __init__(self, names: Mapping[str, Sequence[str]]) -> None:
        """Take the names.

        Args:
            names: Other names by name.

        Raises:
            ValueError: Two names share one of their other names.
        """
        self.names: tuple[str, ...] = tuple(names)
        self._aliases: dict[str, str] = {}
        for name, others in names.items():
            for alias in (name, *others):
                own = self._aliases.setdefault(_normal(alias), name)
                if own != name:
                    raise ValueError(f"{alias!r} names both {own!r} and {name!r}")

    def __bool__(self) -> bool:
        """Whether any name is known."""
        return bool(self.names)

    def match(self, said: str) -> Match:
        """Find out which known name is meant.

        In this order: the very name; a name with few wrong letters, whose numbers are the same;
        a known name inside of what was said («the kitchen over there»); what was said as the
        end of one known name («the room» where there is one room).

        Args:
            said: A piece of a sentence.
        """
        bare = _normal(said)
        if not self.names:
            return Match(said)
        if bare in self._aliases:
            return Match(self._aliases[bare])
        if bare in _PERSONAL:
            return Match(said)
        marks = _marks(bare)
        similar = [
            alias
            for alias, _, _ in process.extract(
                bare, list(self._aliases), scorer=fuzz.ratio, score_cutoff=_SAME, limit=None
            )
            if _marks(alias) == marks
        ]
        if similar:
            return self._decided(similar)
        inside = [alias for alias in self._aliases if f" {alias} " in f" {bare} "]
        if inside:
            longest = max(len(alias.split()) for alias in inside)
            return self._decided([a for a in inside if len(a.split()) == longest])
        # «The room» may be a bathroom too, but «bath» alone is not the end of a word.
        ends = [alias for alias in self._aliases if alias.endswith(bare)]
        if any(alias.endswith(f" {bare}") for alias in ends):
            return self._decided(ends)
        near = process.extract(
            bare, list(self._aliases), scorer=fuzz.WRatio, score_cutoff=60.0, limit=_MOST_ASKED
        )
        return Match("", self._own(alias for alias, _, _ in near))

    def question(self, said: str, match: Match) -> str:
        """Ask which name is meant."""
        if match.options:
            return f"I know no {said!r}; do you mean {' or '.join(match.options)}?"
        shown = ", ".join(self.names[:12]) + (" and others" if len(self.names) > 12 else "")
        return f"I know no {said!r}; I know {shown}"

    def _decided(self, aliases: Sequence[str]) -> Match:
        names = self._own(aliases)
        return Match(names[0]) if len(names) == 1 else Match("", names[:_MOST_ASKED])

    def _own(self, aliases: Iterable[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._aliases[alias] for alias in aliases))


def _normal(name: str) -> str:
    """Write a name as it is compared: bare, numbers in words."""
    return " ".join(
        number_words(int(word)) if word.isdecimal() and len(word) < 6 else word
        for word in bare_name(name).replace("-", " ").split()
    )


def _marks(name: str) -> tuple[str, ...]:
    """Give the words in which no letter may differ: numbers, letters, left and right."""
    return tuple(word for word in name.split() if len(word) < 3 or word in _NUMBERS)
