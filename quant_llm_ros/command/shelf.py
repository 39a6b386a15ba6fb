"""The prompt of a large registry in pieces, of which each command gets those of a few skills.

The instruction and the lines of a few common skills open every prompt. Each other skill's line
goes through the model once, behind that opening and no other line; so do its examples, behind its
own line. What the model sees of a skill does therefore not depend on which others are on the list.
The common lines are what a line needs to be read as one of several: behind the instruction alone,
as in parallel context windows (Ratner et al. 2023), many commands were no longer understood.
"""

from __future__ import annotations

from collections.abc import Sequence

from quant_llm_ros.command.prompt import Prompt
from quant_llm_ros.engine.protocol import Gathering


class Shelf:
    """Keys and values of the prompt's pieces, in one engine."""

    def __init__(
        self, prompt: Prompt, engine: Gathering, common: Sequence[str], names: Sequence[str]
    ) -> None:
        """Run every piece through the model.

        Args:
            prompt: The prompt.
            engine: Keeps the pieces; its cache is empty afterwards.
            common: Names of the skills that open every prompt.
            names: Of all skills.
        """
        self._prompt = prompt
        self._engine = engine
        self._gathered: tuple[str, ...] | None = None
        self._length = 0
        engine.rollback(0)
        engine.append(prompt.head)
        for name in common:
            engine.append(prompt.line(name))
        engine.mark()
        self._common = tuple(common)
        self._opening = engine.length
        self._head = engine.shelve(0, engine.length)
        self._lines: dict[str, int] = {}
        self._examples: dict[tuple[str, str], int] = {}
        self._close = self._run(prompt.close)[0]
        for pair in prompt.examples(()):
            self._examples[pair] = self._run(prompt.close, prompt.example(*pair))[1]
        for name in names:
            shown = [pair for pair in prompt.examples([name]) if pair not in self._examples]
            turns = [prompt.example(*pair) for pair in shown]
            if name in common:
                numbers = self._run(prompt.close, *turns)[1:]
            else:
                self._lines[name], _, *numbers = self._run(prompt.line(name), prompt.close, *turns)
            self._examples.update(zip(shown, numbers, strict=True))
        engine.rollback(0)

    def gather(self, names: Sequence[str]) -> list[int]:
        """Make the engine's cache the prompt of some skills.

        Args:
            names: Of the skills, in order; the common ones stand first.

        Returns:
            The tokens between what is now in the cache and the sentence. They have to read all of
            it, so they are no pieces.
        """
        prompt, engine = self._prompt, self._engine
        examples = prompt.examples(names)
        if self._gathered != tuple(names):
            self._gathered = None
            pieces = [self._head, *(self._lines[name] for name in names[len(self._common) :])]
            if examples:
                pieces += [self._close, *(self._examples[pair] for pair in examples)]
            engine.gather(pieces)
            self._gathered, self._length = tuple(names), engine.length
        else:
            engine.rollback(self._length)
        return prompt.open if examples else [*prompt.close, *prompt.open]

    def _run(self, *parts: Sequence[int]) -> list[int]:
        """Run parts behind the opening and each other, and keep each."""
        engine = self._engine
        start = self._opening
        engine.rollback(start)
        engine.append([token for part in parts for token in part])
        numbers = []
        for part in parts:
            numbers.append(engine.shelve(start, start + len(part)))
            start += len(part)
        return numbers
