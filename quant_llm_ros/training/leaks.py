"""Sentences that are kept for measuring must never be learnt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import os
import re

from quant_llm_ros.command.evaluation import load_dataset


def normalized(text: str) -> str:
    """Bring a sentence to the form in which two of them count as the same."""
    return re.sub(r"[\W_]+", "", text.casefold())


class LeakCheck:
    """Knows the measured sentences."""

    def __init__(self, measured: Sequence[str | os.PathLike[str]]) -> None:
        """Read the files of measured sentences.

        Raises:
            DatasetError: One of them cannot be read.
        """
        self._measured = {
            normalized(row.text): f"{path}: {row.id}"
            for path in measured
            for row in load_dataset(path)
        }

    def find(self, texts: Iterable[str]) -> list[tuple[str, str]]:
        """Give each text that is a measured sentence, with the place of that sentence."""
        found = []
        for text in texts:
            where = self._measured.get(normalized(text))
            if where is not None:
                found.append((text, where))
        return found
