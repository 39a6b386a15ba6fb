"""Refuses training sentences that are among the sentences on which accuracy is measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import os
import unicodedata

from quant_llm_ros.command.evaluation import load_dataset

# One or two words («hello», «come here») are said by everybody; they prove nothing.
_SHORTEST = 3


def normal_form(text: str) -> str:
    """Give a sentence without case, spaces, accents' encodings and marks.

    Two sentences with the same normal form are the same sentence.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in folded if character.isalnum())


def find_leaks(
    texts: Iterable[str],
    measured_paths: Sequence[str | os.PathLike[str]],
    *,
    min_words: int = _SHORTEST,
) -> list[str]:
    """Find training sentences that are also measured.

    Args:
        texts: Training sentences.
        measured_paths: Datasets in the format of ``command/evaluation.py``.
        min_words: Shorter sentences do not count; 1 counts all.

    Returns:
        The sentences of ``texts`` that occur in a measured set, each once, in order.

    Raises:
        DatasetError: A measured set cannot be read.
    """
    measured = {
        normal_form(row.text)
        for path in measured_paths
        for row in load_dataset(path)
        if len(row.text.split()) >= min_words
    }
    found = {text: None for text in texts if normal_form(text) in measured}
    return list(found)
