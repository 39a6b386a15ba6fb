"""Reading the text of a command: what is refused, and what can be copied from it."""

from __future__ import annotations

import re
import unicodedata

from quant_llm_ros.errors import CommandError

# A word may hold letters, digits and the marks that belong inside words and numbers. Everything
# else (commas, brackets, "=", ";") has a meaning in the notation of calls or none in a name.
_WORD = re.compile(
    r"(?:(?<!\S)[-+](?=\d))?[^\W_](?:[\w'’./%°&+-]*(?:[^\W_]|[%°+]))?|(?<=\d )(?:°[CF]?|%)"
)

_NOT_SPOKEN = re.compile(r"[\W_]+")
# Not every apostrophe: 'stop' in quotes is a word of its own.
_CONTRACTION = re.compile(r"(?<=\w) ?'(?=(?:t|s|re|m|ll|d|ve)\b)")

LEADING = frozenset(
    """
    the a an this that these those some any my your his her its our their
    to towards toward in into inside on onto at from of off near by beside behind under over
    above below with for next up down out around across along through between
    """.split()  # noqa: SIM905 (a list of quoted words says the same on forty lines)
)
"""Words that may stand before a name without changing which thing it names."""


def clean(text: str, *, max_chars: int) -> str:
    """Bring a command to the form that the model reads.

    Unicode is normalized (NFC), control characters and runs of white space become one space.

    Args:
        text: The command as it was received.
        max_chars: Longest accepted command, in characters.

    Raises:
        CommandError: The command is too long or holds text that is not Unicode.
    """
    if len(text) > max_chars:
        raise CommandError(
            f"the command has {len(text)} characters; the limit is {max_chars}: say it shorter"
        )
    for position, character in enumerate(text):
        # Lone surrogates are how Python marks bytes that were not UTF-8.
        if unicodedata.category(character) == "Cs":
            raise CommandError(f"the command is not valid Unicode at character {position}")
    spaced = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text)
    return " ".join(unicodedata.normalize("NFC", spaced).split())


def spoken_words(text: str) -> list[str]:
    """Split a text into words as they sound: case, marks and apostrophes left out.

    What a recognizer writes for «don't» (``don't``, ``dont``, ``don 't``) is one word.
    """
    plain = unicodedata.normalize("NFKC", text).replace("’", "'").casefold()
    return _NOT_SPOKEN.sub(" ", _CONTRACTION.sub("", plain)).split()


def bare_name(text: str) -> str:
    """Bring a name to the form in which names are compared.

    Case-folded, without leading determiners, possessives and prepositions.
    """
    rest = text.casefold().split()
    while len(rest) > 1 and rest[0] in LEADING:
        rest = rest[1:]
    return " ".join(rest)


def words(text: str) -> list[str]:
    """Split a cleaned command into the words that an argument can copy, in order."""
    return _WORD.findall(text)
