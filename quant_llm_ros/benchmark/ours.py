"""This package's own decoding, with what makes it fast switched on step by step."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from pathlib import Path
import time

import numpy as np
from numpy.typing import NDArray

from quant_llm_ros.benchmark.sample import Sample
from quant_llm_ros.command import text as reading
from quant_llm_ros.command.calls import Grammar
from quant_llm_ros.command.drafter import Drafter
from quant_llm_ros.command.prompt import Prompt
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.command.understander import MAX_ANSWER_TOKENS
from quant_llm_ros.engine.bundle import Bundle, SKILLS, TOKENIZER
from quant_llm_ros.engine.decoding import compile_grammar, decode, PREFILL_CHUNK
from quant_llm_ros.engine.open import open_engine
from quant_llm_ros.engine.protocol import Engine
from quant_llm_ros.engine.providers import AUTO
from quant_llm_ros.engine.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Features:
    """What is switched on.

    Attributes:
        prefix: The prompt's prefix stays in the cache; else it is computed for each sentence.
        forced: Forced tokens go along with the token before them; else each takes a pass.
        draft: Guesses of a drafter are verified.
        learn: The drafter learns from every answer that it did not guess.
    """

    prefix: bool
    forced: bool
    draft: bool
    learn: bool = False


MODES = {
    "ours, everything off": Features(prefix=False, forced=False, draft=False),
    "ours, prefix kept": Features(prefix=True, forced=False, draft=False),
    "ours, forced tokens free": Features(prefix=True, forced=True, draft=False),
    "ours, drafts": Features(prefix=True, forced=True, draft=True),
    "ours, drafts that learn": Features(prefix=True, forced=True, draft=True, learn=True),
}
"""Each has what the one before it has, and one thing more."""

PLAIN = "ours, forced tokens free"
"""The mode whose answers the others must give."""


class Ours:
    """A bundle and one registry, ready to answer."""

    def __init__(
        self,
        bundle_path: str,
        skills_path: str | None,
        features: Features,
        *,
        threads: int,
        provider: str = AUTO,
        allow_fallback: bool = False,
        drafter_file: str | None = None,
        engine: Engine | None = None,
    ) -> None:
        """Load the bundle and fill the prefix.

        Args:
            bundle_path: Folder of the bundle.
            skills_path: Skill registry; None means the bundle's own.
            features: What is switched on.
            threads: CPU threads of the engine.
            provider: One of ``engine.providers.PROVIDERS``.
            allow_fallback: Let the runtime fall back to a slower provider.
            drafter_file: What the drafter learned before; None: the registry's examples.
            engine: Another runtime's, which runs the same model; None: the bundle's own.

        Raises:
            QuantLlmError: Something is missing or damaged.
        """
        bundle = Bundle.load(Path(bundle_path))
        skills = SkillRegistry.load(skills_path or bundle.file(SKILLS))
        own = skills.sha256 == bundle.files[SKILLS].sha256
        shown = {"always": True, "other": not own, "never": False}[bundle.prompt_examples]
        self.weight_bytes = bundle.size_bytes
        self.tokenizer = Tokenizer(bundle.file(TOKENIZER))
        self.engine = engine or open_engine(
            bundle, provider=provider, threads=threads, allow_fallback=allow_fallback
        )
        self.prompt = Prompt(skills, self.tokenizer, examples=shown)
        self._grammar = Grammar(skills)
        self._drafter = Drafter(skills, drafter_file) if features.draft else None
        self._features = features
        self._fill()

    def __call__(self, sentence: str) -> Sample:
        """Answer one cleaned sentence that has words."""
        started = time.perf_counter()
        prefilled = started
        engine = self.engine
        counted = CountedEngine(engine, split=not self._features.forced)

        def on_prefilled() -> None:
            nonlocal prefilled
            prefilled = time.perf_counter()
            counted.in_prompt = False

        matcher = compile_grammar(
            self.tokenizer, self._grammar.for_sentence(reading.words(sentence))
        )
        tokens = self.prompt.after_prefix(sentence)
        if self._features.prefix:
            engine.rollback(len(self.prompt.prefix))
        else:
            engine.rollback(0)
            tokens = [*self.prompt.prefix, *tokens]
        answer = decode(
            counted,
            self.tokenizer,
            matcher,
            tokens,
            max_tokens=MAX_ANSWER_TOKENS,
            before_pass=lambda: None,
            on_prefilled=on_prefilled,
            draft=self._drafter.for_sentence(sentence) if self._drafter else None,
        )
        ended = time.perf_counter()
        if self._drafter and self._features.learn and answer.accepted < answer.choices:
            self._drafter.learn(sentence, answer.text)
        return Sample(
            sentence=sentence,
            answer=answer.text,
            total_ms=(ended - started) * 1e3,
            prefill_ms=(prefilled - started) * 1e3,
            decode_ms=(ended - prefilled) * 1e3,
            passes=counted.passes,
            tokens=answer.tokens,
            choices=answer.choices,
            drafted=answer.drafted,
            accepted=answer.accepted,
            probability=answer.probability,
            margin=answer.margin,
        )

    def pass_ms(self, tokens: int, *, repeats: int = 9) -> float:
        """Measure a pass over new tokens behind the prefix, its median in milliseconds."""
        ids = self.prompt.prefix[:tokens]
        times = []
        for _ in range(repeats):
            self._fill()
            started = time.perf_counter()
            self.engine.append(ids)
            times.append((time.perf_counter() - started) * 1e3)
        return float(np.median(times))

    def close(self) -> None:
        """Release the model."""
        self.engine.close()

    def _fill(self) -> None:
        prefix = self.prompt.prefix
        if self.engine.length >= len(prefix):
            self.engine.rollback(len(prefix))
            return
        self.engine.rollback(0)
        for start in range(0, len(prefix), PREFILL_CHUNK):
            self.engine.append(prefix[start : start + PREFILL_CHUNK])
        self.engine.mark()


class CountedEngine:
    """An engine that counts its passes, and may give each token behind the prompt its own.

    Attributes:
        passes: Number of passes so far.
        in_prompt: The prompt has not gone through the model yet.
    """

    def __init__(self, engine: Engine, *, split: bool) -> None:
        """Wrap an engine for one answer.

        Args:
            engine: The engine.
            split: Behind the prompt, run each new token by itself.
        """
        self.info = engine.info
        self.vocab_size = engine.vocab_size
        self.context_length = engine.context_length
        self.passes = 0
        self.in_prompt = True
        self._engine = engine
        self._split = split

    @property
    def length(self) -> int:
        """Number of tokens in the cache."""
        return self._engine.length

    def append(
        self, tokens: Sequence[int], *, last: int = 1, at: Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        """Append tokens as the engine does, and count."""
        if self._split and not self.in_prompt:
            for token in tokens[:-1]:
                self._engine.append([token])
                self.passes += 1
            tokens = tokens[-1:]
        self.passes += 1
        return self._engine.append(tokens, last=last, at=at)

    def rollback(self, length: int) -> None:
        """Roll the engine back."""
        self._engine.rollback(length)

    def mark(self) -> None:
        """Mark the engine's length."""
        self._engine.mark()

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()
