"""Sentences that are kept for measuring must never be learnt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import os
import unicodedata

from quant_llm_ros.command.evaluation import load_dataset


def normalized(text: str) -> str:
    """Bring a sentence to the form in which two of them count as the same.

    Case-folded letters and digits alone, without spaces and marks.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in folded if character.isalnum())


class LeakCheck:
    """Knows the measured sentences.

    Attributes:
        measured: Where each stands, by its normalized text.
    """

    def __init__(self, measured: Sequence[str | os.PathLike[str]]) -> None:
        """Read the files of measured sentences.

        Args:
            measured: Datasets in the format of ``command/evaluation.py``.

        Raises:
            DatasetError: One of them cannot be read.
        """
        self.measured = {
            normalized(row.text): f"{path}: {row.id}"
            for path in measured
            for row in load_dataset(path)
        }

    def allows(self, text: str) -> bool:
        """Tell whether a text may be learnt: it is no measured sentence."""
        return normalized(text) not in self.measured

    def find(self, texts: Iterable[str]) -> list[tuple[str, str]]:
        """Give each text that is a measured sentence, with the place of that sentence."""
        found = []
        for text in texts:
            where = self.measured.get(normalized(text))
            if where is not None:
                found.append((text, where))
        return found
