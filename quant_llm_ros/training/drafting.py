"""Trains the drafter of a registry on generated sentences."""

from __future__ import annotations

from quant_llm_ros.command import text as reading
from quant_llm_ros.command.drafter import Drafter
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.training.generator import generate

MOST_SENTENCES = 4_000
# Sentences times skills, about 15 s of computing: a registry with hundreds of skills gets fewer.
_BUDGET = 64_000
_GROUP_SIZE = 16
_ROUNDS = 3
_MAX_CHARS = 512


def train_drafter(
    registry: SkillRegistry, *, sentences: int | None = None, seed: int = 1
) -> Drafter:
    """Train a drafter, the same one for the same arguments.

    Args:
        registry: The skills; their examples say how they are asked for.
        sentences: How many sentences are generated; None: 4,000, fewer for more than 16 skills.
        seed: Any whole number.

    Returns:
        The drafter; its ``save`` writes the file that a robot loads.
    """
    if sentences is None:
        sentences = min(MOST_SENTENCES, _BUDGET // len(registry.skills))
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
