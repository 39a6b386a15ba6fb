"""Trains the drafter of a registry on generated sentences."""

from __future__ import annotations

from quant_llm_ros.command import text as reading
from quant_llm_ros.command.drafter import Drafter
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.training.generator import generate

DEFAULT_SENTENCES = 10_000
_GROUP_SIZE = 16
_ROUNDS = 3
_MAX_CHARS = 512


def train_drafter(
    registry: SkillRegistry, *, sentences: int = DEFAULT_SENTENCES, seed: int = 1
) -> Drafter:
    """Train a drafter, the same one for the same arguments.

    Args:
        registry: The skills; their examples say how they are asked for.
        sentences: How many sentences are generated.
        seed: Any whole number.

    Returns:
        The drafter; its ``save`` writes the file that a robot loads.
    """
    groups = generate(
        seed, -(-sentences // _GROUP_SIZE), _GROUP_SIZE, default_share=1.0, registries=[registry]
    )
    lessons = []
    for group in groups:
        for example in group.examples:
            sentence = reading.clean(example.text, max_chars=_MAX_CHARS)
            if reading.words(sentence):
                lessons.append((sentence, example.answer, example.before))
    drafter = Drafter(registry)
    drafter.train(lessons, rounds=_ROUNDS)
    return drafter
