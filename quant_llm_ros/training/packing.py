"""Many sentences behind one prompt: what a training step reads.

The prompt of a registry is ten times as long as a sentence with its answer. So a step reads the
prompt once and behind it many sentences, each of which sees the prompt and itself but none of the
others, at the positions that it would have alone. That is the same loss and gradient as one
sequence per sentence, at a sixth of the tokens (prefix sharing, as in tree attention; see Cai et
al. 2024, «Medusa», section 2.1.2, for the mask).
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from quant_llm_ros.command.prompt import Prompt
from quant_llm_ros.engine.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Pack:
    """One training step's sequence.

    Attributes:
        tokens: The prompt, then each sentence with its answer, int64 ``[n]``.
        positions: Position of each token in its own conversation, int64 ``[n]``.
        prompt_length: How many of the tokens are the prompt.
        sentences: Indices of the tokens of each sentence, in rows that are filled up with
            ``n``, int64 ``[sentences, longest]``.
        asked: Indices of the tokens whose next token is part of an answer, int64 ``[k]``.
        labels: Those next tokens, int64 ``[k]``.
        owner: Which sentence each of them belongs to, int64 ``[k]``.
    """

    tokens: Tensor
    positions: Tensor
    prompt_length: int
    sentences: Tensor
    asked: Tensor
    labels: Tensor
    owner: Tensor

    def to(self, device: str) -> Pack:
        """Give the same pack with its tensors on a device."""
        moved = {
            field.name: value.to(device)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **moved)


# Rows of the prompt that attend at once: what lies behind them needs no computing.
_ROWS = 256
Before = Sequence[tuple[str, str]]


def pack(
    prompt: Prompt, tokenizer: Tokenizer, examples: Sequence[tuple[str, str, Before]]
) -> Pack:
    """Pack sentences and their answers behind a prompt.

    Args:
        prompt: Prompt of the registry that the sentences are for.
        tokenizer: The model's tokenizer.
        examples: Cleaned sentences with their answers and what was said before them, at least
            one.
    """
    tokens = list(prompt.prefix)
    positions = list(range(len(tokens)))
    sentences: list[Tensor] = []
    asked: list[int] = []
    labels: list[int] = []
    owner: list[int] = []
    for index, (text, answer, before) in enumerate(examples):
        question = prompt.after_prefix(text, before)
        reply = [*tokenizer.encode(answer), tokenizer.turn_end]
        first = len(tokens) + len(question) - 1
        asked += range(first, first + len(reply))
        labels += reply
        owner += [index] * len(reply)
        # The end of the turn is only ever a label: nothing follows it.
        segment = question + reply[:-1]
        positions += range(len(prompt.prefix), len(prompt.prefix) + len(segment))
        sentences.append(torch.arange(len(tokens), len(tokens) + len(segment)))
        tokens += segment
    return Pack(
        tokens=torch.tensor(tokens),
        positions=torch.tensor(positions),
        prompt_length=len(prompt.prefix),
        sentences=torch.nn.utils.rnn.pad_sequence(
            sentences, batch_first=True, padding_value=float(len(tokens))
        ),
        asked=torch.tensor(asked),
        labels=torch.tensor(labels),
        owner=torch.tensor(owner),
    )


def use_packed_attention(model: Any) -> None:
    """Let a transformers model read packs: call it with ``pack=``.

    The prompt attends to itself; each sentence attends to the prompt and to itself. That is less
    than half of the time of an attention over all tokens with a mask.
    """
    ALL_ATTENTION_FUNCTIONS.register("packed", _packed_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register("packed", _no_mask)
    model.config._attn_implementation = "packed"


def _no_mask(*_: Any, **__: Any) -> None:
    """Make no mask: what sees what is told by the pack."""


def _packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    pack: Pack,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers asks: ``[1, heads, n, d]`` each, and ``[1, n, heads, d]`` out."""
    groups = query.shape[1] // key.shape[1]
    q = query[0] * scaling
    k, v = key[0].repeat_interleave(groups, 0), value[0].repeat_interleave(groups, 0)
    size = pack.prompt_length
    parts = []
    for start in range(0, size, _ROWS):
        end = min(start + _ROWS, size)
        scores = q[:, start:end] @ k[:, :end].transpose(1, 2)
        weights = torch.softmax(scores + _hidden(end - start, end, start, scores), -1)
        parts.append(weights @ v[:, :end])
    parts.append(_of_sentences(q, k, v, pack))
    return torch.cat(parts, 1).transpose(0, 1)[None], None


def _of_sentences(q: Tensor, k: Tensor, v: Tensor, pack: Pack) -> Tensor:
    """Attend from every sentence to the prompt and itself, ``[heads, n - prompt, d]``."""
    heads, n, width = q.shape
    size, rows = pack.prompt_length, pack.sentences
    count, longest = rows.shape
    # Sentences stand one behind the other, so that rows without their filling are in order.
    filled = (rows.flatten() < n).nonzero()[:, 0]
    places = rows.flatten().clamp(max=n - 1)
    own_q, own_k, own_v = (
        states.index_select(1, places).view(heads, count, longest, width) for states in (q, k, v)
    )
    own = own_q @ own_k.transpose(2, 3)
    own = (own + _hidden(longest, longest, 0, own)).flatten(1, 2).index_select(1, filled)
    scores = torch.cat((q[:, size:] @ k[:, :size].transpose(1, 2), own), -1)
    weights = torch.softmax(scores, -1)
    own_weights = weights.new_zeros(heads, count * longest, longest)
    own_weights = own_weights.index_copy(1, filled, weights[:, :, size:])
    from_own = own_weights.view(heads, count, longest, longest) @ own_v
    from_prompt = weights[:, :, :size] @ v[:, :size]
    return from_prompt + from_own.flatten(1, 2).index_select(1, filled)


def _hidden(rows: int, columns: int, first: int, like: Tensor) -> Tensor:
    """Minus infinity where a row, counted from ``first``, must not see a later column."""
    return like.new_full((rows, columns), -torch.inf).triu(first + 1)
