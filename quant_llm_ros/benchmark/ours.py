"""This package's own decisions, with what makes them fast switched on step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
from pathlib import Path
import time
from typing import Any

import numpy as np

from quant_llm_ros.benchmark.plain import plain_decode
from quant_llm_ros.benchmark.sample import Sample, written
from quant_llm_ros.command.decision import Stage
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.command.understander import Understander
from quant_llm_ros.engine.bundle import Bundle, SKILLS
from quant_llm_ros.engine.decoding import Answer, decode
from quant_llm_ros.engine.open import open_engine
from quant_llm_ros.engine.protocol import Engine
from quant_llm_ros.engine.providers import AUTO, CPU, resolve

PASS_SIZES = (1, 2, 4, 8, 16, 32, 64)
_ROUNDS = 15


@dataclasses.dataclass(frozen=True)
class Features:
    """What is switched on.

    Attributes:
        prefix: The prompt's prefix stays in the cache; else it is computed for each sentence.
        forced: Forced tokens go along with the token before them; else each takes a pass and
            every token is chosen with a mask over the whole vocabulary (``plain``).
        draft: Guesses of a drafter, which learns from every answer, are verified.
        loop: Values stay in the runtime, and only logits that are read are computed; else arrays
            go in and out (``arrays_engine``).
    """

    prefix: bool
    forced: bool
    draft: bool
    loop: bool


MODES = {
    "ours, everything off": Features(prefix=False, forced=False, draft=False, loop=False),
    "ours, 1 prefix kept": Features(prefix=True, forced=False, draft=False, loop=False),
    "ours, 2 forced tokens free": Features(prefix=True, forced=True, draft=False, loop=False),
    "ours, 3 drafts": Features(prefix=True, forced=True, draft=True, loop=False),
    "ours, 4 inner loop: as served": Features(prefix=True, forced=True, draft=True, loop=True),
}
"""Each has what the one before it has, and one thing more."""

SERVED = "ours, 4 inner loop: as served"
PLAIN = "ours, 1 prefix kept"
"""Plain greedy constrained decoding, whose answers the others must give."""

UNDER_ANOTHER = Features(prefix=True, forced=True, draft=False, loop=True)
"""What another runtime gets of this: all but the drafts."""


class Ours:
    """A bundle and one registry, ready to decide.

    Attributes:
        understander: What decides.
        runtime: What runs the model, with its version.
    """

    def __init__(
        self,
        bundle_path: str,
        skills_path: str | None,
        features: Features,
        *,
        threads: int,
        provider: str = AUTO,
        allow_fallback: bool = False,
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
            engine: Another runtime's, which runs the same model; None: the bundle's own.

        Raises:
            QuantLlmError: Something is missing or damaged.
        """
        bundle = Bundle.load(Path(bundle_path))
        skills = SkillRegistry.load(skills_path or bundle.file(SKILLS))
        if engine is None:
            plain = not features.loop and bundle.target == "ort" and resolve(provider) == CPU
            if plain:
                # Imported here: with TensorRT alone there is no ONNX Runtime.
                from quant_llm_ros.benchmark.arrays_engine import ArraysEngine

                engine = ArraysEngine.load(bundle, threads=threads)
            else:
                engine = open_engine(
                    bundle, provider=provider, threads=threads, allow_fallback=allow_fallback
                )
        self.understander = Understander.of_bundle(
            bundle, engine, skills, drafts=features.draft, shortlist=0
        )
        self.understander.answerer.decode = self._decode
        self.runtime = engine.info.runtime
        self._features = features
        self._answer = Answer("", 0.0, 0)

    def __call__(self, sentence: str) -> Sample:
        """Decide about one cleaned sentence that has words and is no stop phrase."""
        started = time.perf_counter()
        decision = self.understander.understand(sentence)
        total_ms = (time.perf_counter() - started) * 1e3
        self.understander.learn()  # as the node does when the decision is published
        answer = self._answer
        return Sample(
            sentence=sentence,
            answer=decision.answer,
            decision=written(decision.status, decision.calls, decision.unserved),
            total_ms=total_ms,
            prefill_ms=decision.latency_ms.get(Stage.PREFILL, 0.0),
            decode_ms=decision.latency_ms.get(Stage.DECODE, 0.0),
            passes=decision.forward_passes,
            tokens=decision.generated_tokens,
            choices=answer.choices,
            drafted=answer.drafted,
            accepted=answer.accepted,
            probability=answer.probability,
            margin=answer.margin,
        )

    def costs(self) -> dict[str, float]:
        """Measure passes over new tokens behind the prefix, medians in milliseconds."""
        times: dict[int, list[float]] = {size: [] for size in PASS_SIZES}
        # In turn, so that a busy moment of the machine does not fall on one size alone.
        for _ in range(_ROUNDS):
            for size, taken in times.items():
                taken.append(self._pass_ms(size))
        figures = {f"pass_ms_{size}": float(np.median(taken)) for size, taken in times.items()}
        longest = PASS_SIZES[-1]
        if self._features.draft:
            # What it costs to look at several choices of a draft: a smaller vocabulary saves less.
            figures["logits_ms_10"] = float(
                np.median([self._pass_ms(32, 10) - self._pass_ms(32, 1) for _ in range(_ROUNDS)])
            )
        return {
            **{name: round(ms, 3) for name, ms in figures.items()},
            "prefill_ms_per_token": round(figures[f"pass_ms_{longest}"] / longest, 3),
            "decode_ms_per_token": round(figures["pass_ms_1"], 3),
        }

    def _pass_ms(self, tokens: int, wanted: int = 1) -> float:
        engine, prefix = self.understander.engine, self.understander.answerer.prefix
        engine.rollback(len(prefix))
        started = time.perf_counter()
        engine.append(prefix[:tokens], last=wanted)
        return (time.perf_counter() - started) * 1e3

    def close(self) -> None:
        """Release the model."""
        self.understander.close()

    def _decode(
        self, engine: Engine, tokenizer: Any, matcher: Any, prompt: Sequence[int], **rest: Any
    ) -> Answer:
        if not self._features.prefix:
            engine.rollback(0)
            prompt = [*self.understander.answerer.prefix, *prompt]
        way: Callable[..., Answer] = decode if self._features.forced else plain_decode
        self._answer = way(engine, tokenizer, matcher, prompt, **rest)
        return self._answer
