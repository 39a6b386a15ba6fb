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

import torch
from torch import Tensor

from quant_llm_ros.command.prompt import Prompt
from quant_llm_ros.engine.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Pack:
    """One training step's sequence.

    Attributes:
        tokens: The prompt, then each sentence with its answer, int64 ``[n]``.
        positions: Position of each token in its own conversation, int64 ``[n]``.
        visible: Which token (row) sees which (column), bool ``[n, n]``.
        asked: Indices of the tokens whose next token is part of an answer, int64 ``[k]``.
        labels: Those next tokens, int64 ``[k]``.
        owner: Which sentence each of them belongs to, int64 ``[k]``.
    """

    tokens: Tensor
    positions: Tensor
    visible: Tensor
    asked: Tensor
    labels: Tensor
    owner: Tensor


def pack(prompt: Prompt, tokenizer: Tokenizer, examples: Sequence[tuple[str, str]]) -> Pack:
    """Pack sentences and their answers behind a prompt.

    Args:
        prompt: Prompt of the registry that the sentences are for.
        tokenizer: The model's tokenizer.
        examples: Cleaned sentences with their answers, at least one.
    """
    tokens = list(prompt.prefix)
    positions = list(range(len(tokens)))
    segments = [-1] * len(tokens)
    asked: list[int] = []
    labels: list[int] = []
    owner: list[int] = []
    for index, (text, answer) in enumerate(examples):
        question = prompt.after_prefix(text)
        reply = [*tokenizer.encode(answer), tokenizer.turn_end]
        first = len(tokens) + len(question) - 1
        asked += range(first, first + len(reply))
        labels += reply
        owner += [index] * len(reply)
        # The end of the turn is only ever a label: nothing follows it.
        segment = question + reply[:-1]
        positions += range(len(prompt.prefix), len(prompt.prefix) + len(segment))
        segments += [index] * len(segment)
        tokens += segment
    segment_of = torch.tensor(segments)
    same = segment_of[:, None] == segment_of[None, :]
    in_prompt = (segment_of == -1)[None, :]
    causal = torch.ones(len(tokens), len(tokens), dtype=torch.bool).tril()
    return Pack(
        tokens=torch.tensor(tokens),
        positions=torch.tensor(positions),
        visible=(same | in_prompt) & causal,
        asked=torch.tensor(asked),
        labels=torch.tensor(labels),
        owner=torch.tensor(owner),
    )
