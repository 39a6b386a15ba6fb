"""What the fast ways are compared with: greedy decoding under a grammar, as a textbook has it.

Every token takes a pass, is the best one among all that the grammar allows, and is chosen by
a mask over the whole vocabulary. Nothing of ``engine.decoding`` is in it, so that an error there
shows as another answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math

import llguidance
import numpy as np

from quant_llm_ros.engine.decoding import Answer, Draft, PREFILL_CHUNK
from quant_llm_ros.engine.protocol import Engine
from quant_llm_ros.engine.tokenizer import Tokenizer
from quant_llm_ros.errors import EngineError


def plain_decode(
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
    """Decode token by token; see ``engine.decoding.decode`` for the arguments.

    Args:
        engine: Engine whose cache holds the prefix of the prompt.
        tokenizer: The bundle's tokenizer.
        matcher: Grammar of the allowed answers, at its start.
        prompt: Tokens to append before the answer.
        max_tokens: Most tokens of the answer.
        before_pass: Called before every pass.
        on_prefilled: Called when the prompt has gone through the model.
        draft: Not used.

    Raises:
        EngineError: The answer exceeds ``max_tokens``.
    """
    mask = np.zeros((tokenizer.vocab_size + 31) // 32, np.uint32)
    pending = list(prompt)
    while len(pending) > PREFILL_CHUNK:
        before_pass()
        engine.append(pending[:PREFILL_CHUNK])
        del pending[:PREFILL_CHUNK]
    answer: list[int] = []
    log_probability, margin, choices = 0.0, math.inf, 0
    while not matcher.is_stopped():
        before_pass()
        logits = engine.append(pending)[-1][: tokenizer.vocab_size].astype(np.float64)
        if not answer:
            on_prefilled()
        matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[: len(logits)]
        allowed = np.where(bits == 1, logits, -np.inf)
        token = int(allowed.argmax())
        second, best = np.partition(allowed, -2)[-2:]
        if np.isfinite(second):
            choices += 1
            margin = min(margin, float(best - second))
            log_probability -= math.log(float(np.exp(allowed - best).sum()))
        if not matcher.consume_tokens([token]):
            raise EngineError(f"the grammar could not be followed: {matcher.get_error()}")
        answer.append(token)
        pending = [token]
        if len(answer) > max_tokens:
            raise EngineError(f"the answer did not end within {max_tokens} tokens")
    return Answer(
        text=tokenizer.decode(answer),
        probability=min(1.0, math.exp(log_probability)),
        tokens=len(answer),
        margin=margin,
        choices=choices,
    )
