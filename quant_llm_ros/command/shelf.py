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
from quant_llm_ros.engine.decoding import PREFILL_CHUNK
from quant_llm_ros.engine.protocol import Engine, Gathering


def keeps_lines_apart(prompt: Prompt, common: Sequence[str], names: Sequence[str]) -> bool:
    """Tell whether the tokens of a prompt are those of its lines, each tokenized by itself.

    Some tokenizers join the mark at the end of a line with the break behind it.
    """
    others = [name for name in names if name not in common]
    written = [*prompt.head(common), *(t for name in others for t in prompt.line(name))]
    whole = prompt.prefix_of((*common, *others))
    return list(whole[: len(written)]) == written


def append_in_chunks(engine: Engine, tokens: Sequence[int]) -> None:
    """Run tokens through the model, not too many at once."""
    for start in range(0, len(tokens), PREFILL_CHUNK):
        engine.append(tokens[start : start + PREFILL_CHUNK])


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
        append_in_chunks(engine, prompt.head(common))
        engine.mark()
        self._common = tuple(common)
        self._opening = engine.length
        self._head = engine.shelve(0, engine.length)
        self._lines: dict[str, int] = {}
        self._examples: dict[tuple[str, str], int] = {}
        engine.append(prompt.close)
        self._close = engine.shelve(self._opening, engine.length)
        engine.rollback(self._opening)
        self._keep_examples(())
        for name in names:
            engine.rollback(self._opening)
            if name not in common:
                engine.append(prompt.line(name))
                self._lines[name] = engine.shelve(self._opening, engine.length)
            self._keep_examples([name])
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

    def _keep_examples(self, names: Sequence[str]) -> None:
        """Run the examples of skills behind what is in the cache, and keep the new ones."""
        prompt, engine = self._prompt, self._engine
        shown = [pair for pair in prompt.examples(names) if pair not in self._examples]
        if not shown:
            return
        turns = [prompt.example(*pair) for pair in shown]
        start = engine.length + len(prompt.close)
        append_in_chunks(engine, [*prompt.close, *(token for turn in turns for token in turn)])
        for pair, turn in zip(shown, turns, strict=True):
            self._examples[pair] = engine.shelve(start, start + len(turn))
            start += len(turn)
