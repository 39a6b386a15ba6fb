"""Greedy decoding under a grammar: one loop for every engine.

A draft, a guess of the whole answer, goes through the model together with what it follows. The
model then says in one pass how much of it is what it would have written itself; that part stands,
and decoding goes on behind it. So a draft changes how many passes an answer takes, never the
answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import math

import llguidance
import numpy as np
from numpy.typing import NDArray

from quant_llm_ros.engine.protocol import Engine
from quant_llm_ros.engine.tokenizer import Tokenizer
from quant_llm_ros.errors import EngineError

PREFILL_CHUNK = 64
"""Tokens of a prompt that go through the model between two looks at deadline and cancel."""
MIN_DRAFT = PREFILL_CHUNK // 2
"""Room for a draft behind a chunk, however long that is: a pass has at most 96 tokens."""

Draft = Callable[[str], "str | None"]
"""Guesses the whole answer, given how it begins; None where there is nothing to guess."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the model said.

    Attributes:
        text: The answer, complete under the grammar.
        probability: Product of the probabilities of the tokens that were a choice, each among the
            tokens that the grammar allowed there.
        tokens: Number of tokens of the answer, forced ones included.
        margin: Smallest distance of the chosen logit from the next best one, over all choices;
            infinite without a choice. Where it is tiny, rounding decides.
        choices: Number of tokens that were a choice.
        drafted: Number of choices for which a draft was looked at.
        accepted: Number of those where the draft was right.
    """

    text: str
    probability: float
    tokens: int
    margin: float = math.inf
    choices: int = 0
    drafted: int = 0
    accepted: int = 0


@dataclasses.dataclass(frozen=True)
class _Choice:
    """A place in a pass where the grammar leaves a choice.

    Attributes:
        at: Index of the token, among the new ones of the pass, whose logits decide.
        allowed: Tokens that the grammar allows, ascending.
        guess: Token of the draft; None where it has none that is allowed.
    """

    at: int
    allowed: NDArray[np.intp]
    guess: int | None


def decode(
    engine: Engine,
    tokenizer: Tokenizer,
    matcher: llguidance.LLMatcher,
    prompt: Sequence[int],
    *,
    max_tokens: int,
    before_pass: Callable[[], None],
    on_prefilled: Callable[[], None],
    draft: Draft | None = None,
) -> Answer:
    """Append a prompt to what the engine has in its cache and decode the answer.

    The most probable token that the grammar allows is taken at each step. Tokens that the grammar
    forces cost no step: they go through the model together with the token before them. So do the
    tokens of a draft, and those that the model would not have chosen are taken back.

    Args:
        engine: Engine whose cache holds the prefix of the prompt.
        tokenizer: The bundle's tokenizer.
        matcher: Grammar of the allowed answers, at its start; see ``compile_grammar``.
        prompt: Tokens to append before the answer, at least one.
        max_tokens: Most tokens of the answer.
        before_pass: Called before every pass of the model; may raise to end decoding.
        on_prefilled: Called once, when the prompt has gone through the model.
        draft: Guesses the answer, first from nothing and then again behind every wrong guess; None
            means one pass for each choice.

    Raises:
        EngineError: The model's output is not finite, the answer exceeds ``max_tokens``, or the
            engine failed. Whatever ``before_pass`` raises also comes through. The cache then holds
            part of the prompt: roll it back.
    """
    path = _Path(tokenizer, matcher)
    pending = list(prompt)
    while len(pending) > PREFILL_CHUNK:
        before_pass()
        engine.append(pending[:PREFILL_CHUNK])
        del pending[:PREFILL_CHUNK]

    log_probability, margin = 0.0, math.inf
    seen = drafted = accepted = 0
    prefilled = False
    while True:
        new, choices = path.ahead(draft, len(pending))
        if not choices:  # the grammar has ended the answer
            path.take(new)
            break
        before_pass()
        # Nothing behind the last choice is needed.
        tokens = [*pending, *new][: choices[-1].at + 1]
        if len(choices) == 1:
            logits = engine.append(tokens)
        else:
            logits = engine.append(tokens, at=[choice.at for choice in choices])
        if not prefilled:
            prefilled = True
            on_prefilled()

        for row, choice in zip(logits, choices, strict=True):
            best, log_share, lead = _best(row, choice.allowed)
            log_probability += log_share
            margin = min(margin, lead)
            seen += 1
            drafted += choice.guess is not None
            if best != choice.guess:
                break
            accepted += 1
        else:
            path.take(new)
            break  # the draft was right to its end
        stands = choice.at + 1 - len(pending)
        if choice.at + 1 < len(tokens):
            engine.rollback(engine.length - (len(tokens) - choice.at - 1))
        path.take(new[:stands], taken_back=len(new) - stands, then=best)
        pending = [best]
        if path.tokens > max_tokens:
            break

    if path.tokens > max_tokens:
        raise EngineError(f"the answer did not end within {max_tokens} tokens")
    if matcher.is_error():
        raise EngineError(f"the grammar could not be followed: {matcher.get_error()}")
    return Answer(
        text=path.text,
        probability=min(1.0, math.exp(log_probability)),
        tokens=path.tokens,
        margin=margin,
        choices=seen,
        drafted=drafted,
        accepted=accepted,
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


class _Path:
    """The answer so far, and the way of a draft through the grammar behind it."""

    def __init__(self, tokenizer: Tokenizer, matcher: llguidance.LLMatcher) -> None:
        self._tokenizer = tokenizer
        self._matcher = matcher
        self._answer: list[int] = []
        # One bit for each token, rounded up to whole words.
        self._mask = np.zeros((tokenizer.vocab_size + 31) // 32, np.uint32)

    @property
    def tokens(self) -> int:
        """Number of tokens of the answer."""
        return len(self._answer)

    @property
    def text(self) -> str:
        """Text of the answer."""
        return self._tokenizer.decode(self._answer)

    def ahead(self, draft: Draft | None, offset: int) -> tuple[list[int], list[_Choice]]:
        """Go on as the grammar forces and as the draft wants, to its end or the first choice.

        The matcher is left at the end of that way.

        Args:
            draft: Guesses the answer.
            offset: Number of tokens that the pass has before the new ones.

        Returns:
            The new tokens, and the choices among them. The draft is right to its end if every
            choice has a guess: then the answer ends there.
        """
        if self._matcher.is_stopped():
            return [], []
        guess = _Guess(self._tokenizer, draft, self.text) if draft is not None else None
        room = max(PREFILL_CHUNK - offset, MIN_DRAFT)
        new: list[int] = []
        choices: list[_Choice] = []
        while True:
            forced = self._matcher.compute_ff_tokens()
            self._consume(forced)
            new += forced
            if self._matcher.is_stopped():
                return new, choices
            if guess is not None and forced:
                guess.forced(forced, self._answer, new)
            allowed = self._allowed()
            token = guess.next() if guess is not None and len(new) < room else None
            if token is not None and not _contains(allowed, token):
                token = None
            choices.append(_Choice(offset + len(new) - 1, allowed, token))
            if token is None:
                return new, choices
            self._consume([token])
            new.append(token)

    def take(self, tokens: Sequence[int], *, taken_back: int = 0, then: int | None = None) -> None:
        """Let tokens stand.

        Args:
            tokens: They follow the answer; the matcher has them already.
            taken_back: Number of tokens behind them that the matcher must forget.
            then: The token that follows them instead.
        """
        self._answer += tokens
        if taken_back and not self._matcher.rollback(taken_back):
            raise EngineError(f"the grammar cannot go back: {self._matcher.get_error()}")
        if then is not None:
            self._consume([then])
            self._answer.append(then)

    def _consume(self, tokens: list[int]) -> None:
        if tokens and not self._matcher.consume_tokens(tokens):
            raise EngineError(f"the grammar refused its own tokens: {self._matcher.get_error()}")

    def _allowed(self) -> NDArray[np.intp]:
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        # A grammar allows few of the tokens, so nearly all words of the mask are zero.
        words = np.flatnonzero(self._mask)
        octets = self._mask[words].astype("<u4").view(np.uint8).reshape(-1, 4)
        rows, bits = np.nonzero(np.unpackbits(octets, axis=1, bitorder="little"))
        allowed: NDArray[np.intp] = words[rows] * 32 + bits
        return allowed[: np.searchsorted(allowed, self._tokenizer.vocab_size)]


class _Guess:
    """The tokens of a draft, one by one, in step with the tokens that the grammar forces."""

    def __init__(self, tokenizer: Tokenizer, draft: Draft, said: str) -> None:
        self._tokenizer = tokenizer
        self._text = draft(said)
        self._left = self._behind(said)

    def next(self) -> int | None:
        """Give the next token; the end of the turn behind the last one."""
        if self._left is None:
            return None
        return self._left.pop(0) if self._left else self._tokenizer.turn_end

    def forced(self, tokens: list[int], answer: list[int], new: list[int]) -> None:
        """Step over tokens that the grammar forces.

        Args:
            tokens: The forced tokens.
            answer: The tokens that stand.
            new: The tokens behind them, with the forced ones.
        """
        if self._left is not None and self._left[: len(tokens)] == tokens:
            del self._left[: len(tokens)]
        else:
            # The grammar cuts the same text into other tokens, or it wants another text.
            self._left = self._behind(self._tokenizer.decode([*answer, *new]))

    def _behind(self, said: str) -> list[int] | None:
        if self._text is None or not self._text.startswith(said):
            return None
        return self._tokenizer.encode(self._text[len(said) :])


def _contains(allowed: NDArray[np.intp], token: int) -> bool:
    index = int(np.searchsorted(allowed, token))
    return index < len(allowed) and int(allowed[index]) == token


def _best(logits: NDArray[np.float32], allowed: NDArray[np.intp]) -> tuple[int, float, float]:
    """Choose among the allowed tokens.

    Args:
        logits: ``[vocab]``.
        allowed: The tokens, ascending; of equal ones the first is chosen.

    Returns:
        The token, the logarithm of its probability among the allowed ones, and how far its logit
        is above the next best.

    Raises:
        EngineError: A logit is not finite.
    """
    candidates = logits[allowed].astype(np.float64)
    if not np.isfinite(candidates).all():
        raise EngineError("the model's output is not finite: the engine or the model is broken")
    index = int(np.argmax(candidates))
    above = candidates - candidates[index]
    log_share = -math.log(float(np.exp(above).sum()))
    above[index] = -math.inf
    return int(allowed[index]), log_share, -float(above.max())
