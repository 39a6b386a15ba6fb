"""The best token that a grammar allows, chosen on the GPU.

A bit mask goes there (6 KB for 49,152 tokens) and one token comes back, in place of all logits
(197 KB). Two kernels: each program of the first finds the best of its part, the second finds the
best of those.
"""

from __future__ import annotations

import triton
import triton.language as tl

SIGNATURE_PARTS = {
    "logits": "*fp32",
    "mask": "*u32",
    "vocab": "i32",
    "values": "*fp32",
    "tokens": "*i32",
}
CONSTANTS_PARTS = {"BLOCK": 1024}
SIGNATURE_BEST = {
    "values": "*fp32",
    "tokens": "*i32",
    "parts": "i32",
    "value": "*fp32",
    "token": "*i32",
}
CONSTANTS_BEST = {"BLOCK": 256}

# More than any token, so that it loses against every one; a constant inside of the kernels.
NONE = tl.constexpr(2**31 - 1)


@triton.jit
def masked_argmax_parts(logits, mask, vocab, values, tokens, BLOCK: tl.constexpr):
    """Find the best allowed token of each part of the vocabulary.

    Of equal ones the first is best, as in numpy. NaN and negative infinity are never chosen.

    Args:
        logits: FP32 ``[vocab]``.
        mask: Bit ``t % 32`` of word ``t // 32`` allows token ``t``; uint32 ``[ceil(vocab / 32)]``.
        vocab: Number of tokens.
        values: Best logit of each part, FP32 ``[ceil(vocab / BLOCK)]``, written.
        tokens: Its token; 2**31 - 1 where none is allowed; int32, written.
        BLOCK: Tokens of a part, a power of two.
    """
    part = tl.program_id(0)
    token = part * BLOCK + tl.arange(0, BLOCK)
    inside = token < vocab
    word = tl.load(mask + token // 32, mask=inside, other=0)
    allowed = inside & (((word >> (token % 32).to(tl.uint32)) & 1) == 1)
    logit = tl.load(logits + token, mask=allowed, other=float("-inf"))
    logit = tl.where(logit == logit, logit, float("-inf"))  # NaN is not itself
    best = tl.max(logit, axis=0)
    chosen = (logit == best) & (logit > float("-inf"))
    tl.store(values + part, best)
    tl.store(tokens + part, tl.min(tl.where(chosen, token, NONE), axis=0))


@triton.jit
def masked_argmax_best(values, tokens, parts, value, token, BLOCK: tl.constexpr):
    """Find the best of the parts.

    Args:
        values: Best logit of each part, FP32 ``[parts]``.
        tokens: Its token, int32 ``[parts]``.
        parts: Number of parts, at most ``BLOCK``.
        value: Best logit of all, FP32 ``[1]``, written; negative infinity where none is allowed.
        token: Its token, int32 ``[1]``, written; -1 where none is allowed.
        BLOCK: A power of two.
    """
    part = tl.arange(0, BLOCK)
    logit = tl.load(values + part, mask=part < parts, other=float("-inf"))
    candidate = tl.load(tokens + part, mask=part < parts, other=NONE)
    best = tl.max(logit, axis=0)
    first = tl.min(tl.where(logit == best, candidate, NONE), axis=0)
    tl.store(value, best)
    tl.store(token, tl.where(first == NONE, -1, first))
