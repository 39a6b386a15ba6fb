"""What writing and speech recognition do to a sentence: case, marks, slips, hesitations.

Words that an argument copies stay where they are, so that an answer follows what became of them.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import random

from quant_llm_ros.training.lexicon import pick
from quant_llm_ros.training.pattern import Span

_NEIGHBOURS = {
    "a": "sq", "b": "vn", "c": "xv", "d": "sf", "e": "wr", "f": "dg", "g": "fh", "h": "gj",
    "i": "uo", "j": "hk", "k": "jl", "l": "k", "m": "n", "n": "bm", "o": "ip", "p": "o", "q": "w",
    "r": "et", "s": "ad", "t": "ry", "u": "yi", "v": "cb", "w": "qe", "x": "zc", "y": "tu",
    "z": "x",
}  # fmt: skip
_HOMOPHONES = {
    "two": ("to", "too"), "four": ("for",), "for": ("four",), "eight": ("ate",),
    "here": ("hear",), "there": ("their",), "right": ("write",), "know": ("no",),
    "your": ("you're",), "through": ("threw",), "by": ("buy",), "meter": ("metre",),
    "meet": ("meat",), "piece": ("peace",), "whole": ("hole",), "weight": ("wait",),
    "wait": ("weight",), "please": ("pleas",), "mail": ("male",), "sea": ("see",),
    "see": ("sea",), "flower": ("flour",), "flour": ("flower",), "son": ("sun",),
    "stairs": ("stares",), "aisle": ("isle",), "pear": ("pair",), "plate": ("played",),
    "bin": ("been",), "break": ("brake",), "which": ("witch",), "would": ("wood",),
    "new": ("knew",), "red": ("read",), "blue": ("blew",), "close": ("clothes",),
    "then": ("than",), "whether": ("weather",), "cellphone": ("cell phone",),
    "robot": ("robert", "robots"), "wood": ("would",), "hall": ("haul",), "and": ("an", "end"),
    "fridge": ("fringe",), "find": ("fined",), "bring": ("ring",), "the": ("da", "a", "de"),
}  # fmt: skip
_HESITATIONS = ("uh", "um", "er", "erm", "hmm", "like", "well", "you know", "i mean")
_FUNCTION_WORDS = frozenset((
    "the", "a", "an", "to", "of", "please", "my", "that", "could", "you", "can", "would", "on",
    "in", "at", "and", "it", "is",
))  # fmt: skip
_DROPPED = frozenset(["the", "a", "an", "my", "our", "your", "some"])
_NEVER_CHANGED = frozenset((
    "not", "no", "never", "without", "except", "but", "instead", "rather", "on", "off",
    "three", "five", "six", "seven", "nine", "ten", "eleven", "twelve", "fifteen", "twenty",
    "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "hundred", "thousand",
    "half", "quarter", "quarters", "point",
))  # fmt: skip
_MARKS = ",.?!;:"


@dataclasses.dataclass(frozen=True)
class Manner:
    """How a sentence is written.

    Attributes:
        marks: Punctuation stays.
        capitals: The first word and names begin with capitals.
        slips: Share of words that recognition or a typist gets wrong.
        hesitations: Share of gaps with a hesitation.
        shouting: All letters are capitals.
    """

    marks: bool
    capitals: bool
    slips: float = 0.0
    hesitations: float = 0.0
    shouting: bool = False


CLEAN = Manner(marks=False, capitals=False)


def some_manner(rng: random.Random) -> Manner:
    """Take one of the manners that people and recognizers have."""
    chance = rng.random()
    slips = 0.0 if rng.random() < 0.84 else rng.choice((0.04, 0.08, 0.12))
    hesitations = 0.0 if rng.random() < 0.93 else rng.choice((0.06, 0.12))
    if chance < 0.55:
        return Manner(False, False, slips, hesitations)
    if chance < 0.85:
        return Manner(True, True, slips, hesitations)
    if chance < 0.95:
        return Manner(True, False, slips, hesitations)
    if chance < 0.985:
        return Manner(False, True, slips, hesitations)
    return Manner(chance < 0.993, True, slips, shouting=True)


def disturb(
    rng: random.Random,
    words: Sequence[str],
    spans: Sequence[Span],
    manner: Manner,
    names: frozenset[str],
) -> list[str]:
    """Write a sentence in a manner.

    Args:
        rng: Source of chance.
        words: The sentence.
        spans: What arguments copy.
        manner: How it is written.
        names: Lower-case names of people that begin with a capital where capitals are kept.

    Returns:
        For each word what became of it: nothing, one word or several with spaces.
    """
    pieces = list(words)
    held = [False] * len(pieces)
    for span in spans:
        held[span.start : span.end] = [True] * (span.end - span.start)
    if not manner.marks:
        pieces = [w.rstrip(_MARKS) for w in pieces]
    if manner.slips:
        _slip(rng, pieces, held, manner.slips)
    if manner.hesitations:
        for index in range(len(pieces) - 1):
            if not held[index] and rng.random() < manner.hesitations:
                pieces[index] += f" {pick(rng, _HESITATIONS)}"
    if manner.shouting:
        pieces = [w.upper() for w in pieces]
    elif manner.capitals:
        pieces = [_capital(w, names) for w in pieces]
        begins = True
        for index, word in enumerate(pieces):
            if word:
                if begins:
                    pieces[index] = word[0].upper() + word[1:]
                begins = word.endswith(".")
    elif not manner.marks and rng.random() < 0.12:
        # Some corpora and recognizers part what an apostrophe joins.
        pieces = [w.replace("'", " '") if not h else w for w, h in zip(pieces, held, strict=True)]
    elif not manner.marks and rng.random() < 0.1:
        pieces = [w.replace("'", "") if not h else w for w, h in zip(pieces, held, strict=True)]
    return pieces


def _capital(word: str, names: frozenset[str]) -> str:
    if word in ("i", "i'm", "i'd", "i'll", "i've", "i,"):
        return "I" + word[1:]
    if word.rstrip(_MARKS + "'s") in names or word.rstrip(_MARKS) in names:
        return word[0].upper() + word[1:]
    return word


def _slip(rng: random.Random, pieces: list[str], held: Sequence[bool], share: float) -> None:
    for index, word in enumerate(pieces):
        # A number or «not» gone wrong would say something else.
        if rng.random() >= share or not word.isalpha() or word in _NEVER_CHANGED:
            continue
        chance = rng.random()
        if chance < 0.2 and word in _HOMOPHONES:
            pieces[index] = rng.choice(_HOMOPHONES[word])
        elif chance < 0.4 and word in _DROPPED and not held[index]:
            pieces[index] = ""
        elif chance < 0.55 and word in _FUNCTION_WORDS and not held[index]:
            pieces[index] = f"{word} {word}"
        elif len(word) > 3:
            pieces[index] = _typo(rng, word)


def _typo(rng: random.Random, word: str) -> str:
    at = rng.randrange(1, len(word) - 1)
    chance = rng.random()
    if chance < 0.35:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if chance < 0.6:
        return word[:at] + word[at + 1 :]
    if chance < 0.75:
        return word[:at] + word[at] + word[at:]
    near = _NEIGHBOURS.get(word[at])
    return word[:at] + (rng.choice(near) if near else word[at]) + word[at + 1 :]
