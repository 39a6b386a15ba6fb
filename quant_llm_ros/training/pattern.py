"""Patterns: how phrasings are written in the data files, and how they become words.

A pattern is words with ``(one|of|these)``, ``[perhaps this]`` and slots::

    {object}        a value of the argument ``object``, spoken as its lexicon says
    {object+}       the same, perhaps with where the thing is («the mug that is on the table»)
    {object!}       the same, never with anything behind it
    {object:tool}   a value from the lexicon ``tool``
    {object'me}     says «me», which is the value
    {state=on}      says nothing; the argument ``state`` is ``on``
    {@room}         words of the lexicon ``room`` that no argument copies
    {object=}       says nothing; what was said since ``object`` belongs to it too
    {#1-40}         a number in words or digits, as in «room 12»
    {`<|x|>}        these characters as they are

``is/are`` and ``it/them`` agree with what was named last.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import random
import re
from typing import Protocol

OPTIONAL_SHARE = 0.4
"""How often an optional part is said."""

_TOKEN = re.compile(r"\{[^{}]*\}|[()\[\]|]|[^\s()\[\]{}|]+")
_SLOT = re.compile(
    r"(?:`(?P<literal>.+)|@(?P<silent>\w+)|#(?P<low>\d+)-(?P<high>\d+)"
    r"|(?P<argument>\w+)(?:(?P<how>[+!])|:(?P<lexicon>\w+)(?P<how2>[+!])?"
    r"|'(?P<words>[^{}]+)|=(?P<value>[^{}]*))?)"
)
_AGREEING = {"is/are": ("is", "are"), "it/them": ("it", "them"), "goes/go": ("goes", "go")}
_PUNCTUATION = frozenset(",.?!;:")


@dataclasses.dataclass(frozen=True)
class Span:
    """A run of words that an argument copies: the words from ``start`` to before ``end``."""

    start: int
    end: int
    kind: str = ""
    plural: bool = False


Value = str | Span


@dataclasses.dataclass
class Said:
    """Words with the values that arguments take from them; grows while a pattern is spoken."""

    words: list[str] = dataclasses.field(default_factory=list)
    values: dict[str, list[Value]] = dataclasses.field(default_factory=dict)
    plural: bool = False
    """Whether what was named last is several things."""

    def add(self, word: str) -> None:
        """Say a word; marks and «'s» are written behind the word before them."""
        if word in _AGREEING:
            word = _AGREEING[word][self.plural]
        if word == "'s" and self.words:
            self.words[-1] += word
        elif word in _PUNCTUATION:
            if self.words and self.words[-1][-1] not in _PUNCTUATION:
                self.words[-1] += word
        else:
            self.words.append(word)


class Speaker(Protocol):
    """Who fills the slots of a pattern."""

    rng: random.Random

    def fill(self, said: Said, slot: Slot) -> None:
        """Say a slot and note its value."""

    def mention(self, said: Said, lexicon: str) -> None:
        """Say something of a lexicon that no argument copies."""

    def number(self, said: Said, low: int, high: int) -> None:
        """Say a number that is part of a name."""


@dataclasses.dataclass(frozen=True)
class Word:
    """A word that is said as it is."""

    text: str

    def speak(self, said: Said, speaker: Speaker) -> None:
        """Say it."""
        said.add(self.text)


@dataclasses.dataclass(frozen=True)
class Slot:
    """A place for a value of an argument."""

    argument: str
    how: str = ""
    lexicon: str = ""
    words: tuple[str, ...] = ()
    value: str | None = None

    def speak(self, said: Said, speaker: Speaker) -> None:
        """Say the value."""
        speaker.fill(said, self)


@dataclasses.dataclass(frozen=True)
class Mention:
    """Words of a lexicon that no argument copies."""

    lexicon: str

    def speak(self, said: Said, speaker: Speaker) -> None:
        """Say them."""
        speaker.mention(said, self.lexicon)


@dataclasses.dataclass(frozen=True)
class Number:
    """A number in a name."""

    low: int
    high: int

    def speak(self, said: Said, speaker: Speaker) -> None:
        """Say it."""
        speaker.number(said, self.low, self.high)


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several sequences."""

    options: tuple[Pattern, ...]
    optional: bool = False

    def speak(self, said: Said, speaker: Speaker) -> None:
        """Say one of them, or nothing where it is optional."""
        if self.optional and speaker.rng.random() >= OPTIONAL_SHARE:
            return
        options = self.options
        chosen = (
            options[int(speaker.rng.random() * len(options))] if len(options) > 1 else options[0]
        )
        chosen.speak(said, speaker)


Node = Word | Slot | Mention | Number | Choice


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A sequence of words, slots and choices."""

    nodes: tuple[Node, ...]

    def speak(self, said: Said, speaker: Speaker) -> None:
        """Say the pattern once."""
        for node in self.nodes:
            node.speak(said, speaker)

    def slots(self) -> frozenset[str]:
        """Names of the arguments that may be said."""
        found: set[str] = set()
        for node in self.nodes:
            if isinstance(node, Slot):
                found.add(node.argument)
            elif isinstance(node, Choice):
                for option in node.options:
                    found |= option.slots()
        return frozenset(found)

    def lexicons(self) -> frozenset[str]:
        """Names of the lexicons that are named in it."""
        found: set[str] = set()
        for node in self.nodes:
            if isinstance(node, Mention) or (isinstance(node, Slot) and node.lexicon):
                found.add(node.lexicon)
            elif isinstance(node, Choice):
                for option in node.options:
                    found |= option.lexicons()
        return frozenset(found)


def compile_pattern(text: str) -> Pattern:
    """Read a pattern.

    Raises:
        ValueError: A bracket has no partner or a slot is malformed; the message quotes it.
    """
    tokens = _TOKEN.findall(text)
    pattern, rest = _sequence(tokens, 0, text)
    if rest != len(tokens):
        raise ValueError(f"{text!r}: {tokens[rest]!r} has no partner")
    return pattern


def _sequence(tokens: Sequence[str], at: int, text: str) -> tuple[Pattern, int]:
    nodes: list[Node] = []
    while at < len(tokens) and tokens[at] not in (")", "]", "|"):
        token = tokens[at]
        if token in ("(", "["):
            node, at = _choice(tokens, at, text)
            nodes.append(node)
        elif token.startswith("{"):
            nodes.append(_slot(token, text))
            at += 1
        else:
            nodes.append(Word(token))
            at += 1
    return Pattern(tuple(nodes)), at


def _choice(tokens: Sequence[str], at: int, text: str) -> tuple[Choice, int]:
    closing = {"(": ")", "[": "]"}[tokens[at]]
    optional = closing == "]"
    options = []
    while True:
        option, at = _sequence(tokens, at + 1, text)
        options.append(option)
        if at >= len(tokens) or (tokens[at] != "|" and tokens[at] != closing):
            raise ValueError(f"{text!r}: a {closing!r} is missing")
        if tokens[at] == closing:
            return Choice(tuple(options), optional), at + 1


def _slot(token: str, text: str) -> Node:
    match = _SLOT.fullmatch(token[1:-1])
    if match is None:
        raise ValueError(f"{text!r}: {token} is not a slot")
    if match["literal"]:
        return Word(match["literal"])
    if match["silent"]:
        return Mention(match["silent"])
    if match["low"]:
        return Number(int(match["low"]), int(match["high"]))
    return Slot(
        match["argument"],
        how=match["how"] or match["how2"] or "",
        lexicon=match["lexicon"] or "",
        words=tuple((match["words"] or "").split()),
        value=match["value"],
    )
