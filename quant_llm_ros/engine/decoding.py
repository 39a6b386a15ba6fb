"""Greedy decoding under a grammar: one loop for every engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import math

import llguidance
import llguidance.numpy
import numpy as np
from numpy.typing import NDArray

from quant_llm_ros.engine.protocol import Engine
from quant_llm_ros.engine.tokenizer import Tokenizer
from quant_llm_ros.errors import EngineError

PREFILL_CHUNK = 64
"""Tokens of a prompt that go through the model between two looks at deadline and cancel."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the model said.

    Attributes:
        text: The answer, complete under the grammar.
        probability: Product of the probabilities of the tokens that were a choice, each among the
            tokens that the grammar allowed there.
        tokens: Number of tokens of the answer, forced ones included.
    """

    text: str
    probability: float
    tokens: int


def decode(
    engine: Engine,
    tokenizer: Tokenizer,
    matcher: llguidance.LLMatcher,
    prompt: Sequence[int],
    *,
    max_tokens: int,
    before_pass: Callable[[], None],
    on_prefilled: Callable[[], None],
) -> Answer:
    """Append a prompt to what the engine has in its cache and decode the answer.

    The most probable token that the grammar allows is taken at each step. Tokens that the grammar
    forces cost no step: they go through the model together with the token before them.

    Args:
        engine: Engine whose cache holds the prefix of the prompt.
        tokenizer: The bundle's tokenizer.
        matcher: Grammar of the allowed answers, at its start; see ``compile_grammar``.
        prompt: Tokens to append before the answer, at least one.
        max_tokens: Most tokens of the answer.
        before_pass: Called before every pass of the model; may raise to end decoding.
        on_prefilled: Called once, when the prompt has gone through the model.

    Raises:
        EngineError: The model's output is not finite, the answer exceeds ``max_tokens``, or the
            engine failed. Whatever ``before_pass`` raises also comes through. The cache then holds
            part of the prompt: roll it back.
    """
    bitmask = llguidance.numpy.allocate_token_bitmask(1, tokenizer.vocab_size)
    answer: list[int] = []
    log_probability = 0.0
    prefilled = False

    pending = [*prompt, *_consume(matcher, matcher.compute_ff_tokens(), answer)]
    while len(pending) > PREFILL_CHUNK:
        before_pass()
        engine.append(pending[:PREFILL_CHUNK])
        del pending[:PREFILL_CHUNK]

    while not matcher.is_stopped():
        before_pass()
        logits = engine.append(pending)[-1]
        if not prefilled:
            prefilled = True
            on_prefilled()
        llguidance.numpy.fill_next_token_bitmask(matcher, bitmask)
        allowed = _allowed(bitmask, tokenizer.vocab_size)
        if not np.isfinite(logits[allowed]).all():
            raise EngineError(
                "the model's output is not finite: the engine or the model is broken"
            )
        choice = int(allowed[np.argmax(logits[allowed])])
        log_probability += _log_probability(logits, allowed, choice)
        pending = _consume(matcher, [choice], answer)
        pending += _consume(matcher, matcher.compute_ff_tokens(), answer)
        if len(answer) > max_tokens:
            raise EngineError(f"the answer did not end within {max_tokens} tokens")
    if matcher.is_error():
        raise EngineError(f"the grammar could not be followed: {matcher.get_error()}")
    return Answer(
        text=tokenizer.decode(answer),
        probability=min(1.0, math.exp(log_probability)),
        tokens=len(answer),
    )


def compile_grammar(tokenizer: Tokenizer, grammar: str) -> llguidance.LLMatcher:
    """Make a matcher of Lark text.

    Raises:
        EngineError: The grammar is malformed.
    """
    matcher = llguidance.LLMatcher(tokenizer.guide, grammar, log_level=0)
    if matcher.is_error():
        raise EngineError(f"the grammar could not be compiled: {matcher.get_error()}")
    return matcher


def _consume(matcher: llguidance.LLMatcher, tokens: Sequence[int], answer: list[int]) -> list[int]:
    taken = list(tokens)
    if taken and not matcher.consume_tokens(taken):
        raise EngineError(f"the grammar refused its own tokens: {matcher.get_error()}")
    answer += taken
    return taken


def _allowed(bitmask: NDArray[np.int32], vocab_size: int) -> NDArray[np.intp]:
    bits = np.unpackbits(bitmask.view(np.uint8), bitorder="little", count=vocab_size)
    return np.flatnonzero(bits)


def _log_probability(logits: NDArray[np.float32], allowed: NDArray[np.intp], choice: int) -> float:
    candidates = logits[allowed].astype(np.float64)
    highest = candidates.max()
    return float(logits[choice] - highest - np.log(np.exp(candidates - highest).sum()))
