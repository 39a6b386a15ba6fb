"""A language model that says what a test wants it to say, with delays and failures on demand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
import time

import numpy as np
from numpy.typing import NDArray
import tokenizers

from quant_llm_ros.engine.protocol import EngineInfo
from quant_llm_ros.engine.tokenizer import Tokenizer, TURN_END, TURN_START
from quant_llm_ros.errors import ContextOverflowError, EngineError

SKILLS_PATH = Path(__file__).parent.parent / "config" / "skills" / "service_robot.yaml"


def make_tokenizer(folder: Path) -> Tokenizer:
    """Train a small byte-level BPE tokenizer on the skill registry and load it."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1001,  # no multiple of 32, so that the ends of bit masks are met
        special_tokens=["<|endoftext|>", TURN_START, TURN_END],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SKILLS_PATH.read_text().splitlines(), trainer)
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return Tokenizer(path)


class ScriptedEngine:
    """An engine whose most probable continuation of every prompt is ``answer``.

    Attributes:
        answer: What it wants to say; the grammar may prevent it.
        delay_s: How long each pass takes.
        fail_after: Number of passes after which every pass fails; None: never.
        passes: Number of tokens of each pass so far.
    """

    def __init__(self, tokenizer: Tokenizer, answer: str = "unknown") -> None:
        """Begin with an empty cache."""
        self.info = EngineInfo("scripted", "test", 0.0)
        self.vocab_size = tokenizer.vocab_size
        self.context_length = 4096
        self.answer = answer
        self.delay_s = 0.0
        self.fail_after: int | None = None
        self.passes: list[int] = []
        self.closed = False
        self._tokenizer = tokenizer
        self._cache: list[int] = []

    @property
    def length(self) -> int:
        """Number of tokens in the cache."""
        return len(self._cache)

    def append(
        self, tokens: Sequence[int], *, last: int = 1, at: Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        """Take in tokens; the logits favour the next token of the answer."""
        assert tokens and last == 1
        time.sleep(self.delay_s)
        if self.fail_after is not None and len(self.passes) >= self.fail_after:
            raise EngineError("the test told the engine to fail")
        if len(self._cache) + len(tokens) > self.context_length:
            raise ContextOverflowError("context full")
        before = len(self._cache)
        self._cache += tokens
        self.passes.append(len(tokens))
        asked = [len(tokens) - 1] if at is None else at
        return np.stack([self._logits(self._cache[: before + index + 1]) for index in asked])

    def _logits(self, context: list[int]) -> NDArray[np.float32]:
        logits = np.zeros(self.vocab_size, np.float32)
        opened = len(context) - context[::-1].index(self._tokenizer.turn_start)
        # The turn begins with its role and a line break.
        said = self._tokenizer.decode(context[opened:]).partition("\n")[2]
        if self.answer.startswith(said) and said != self.answer:
            logits[self._tokenizer.encode(self.answer[len(said) :])[0]] = 10.0
        logits[self._tokenizer.turn_end] = 5.0
        return logits

    def rollback(self, length: int) -> None:
        """Forget tokens."""
        if not 0 <= length <= len(self._cache):
            raise ValueError(f"cannot roll back to {length}")
        del self._cache[length:]

    def mark(self) -> None:
        """Need no hint."""

    def close(self) -> None:
        """Note that the engine was closed."""
        self.closed = True
