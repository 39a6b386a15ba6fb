"""Which few skills of a large registry one sentence may mean, by its words.

A skill is described by the words of its name, description, choices, arguments and examples, and by
the units of its quantities. Each that the sentence shares speaks for it, the more the fewer skills
have it (inverse document frequency, Spärck Jones 1972). For skills that a bundle was made for, the
words count too of which its drafter knows that people ask for them so. What is chosen depends on
the files and on what was said, never on what was learned while running: the same words give the
same decision.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping
import itertools
import math

import snowballstemmer

from quant_llm_ros.command import text as reading
from quant_llm_ros.command.amounts import find_amounts
from quant_llm_ros.command.calls import parse
from quant_llm_ros.command.draft_options import Before, registry_units
from quant_llm_ros.command.skills import Skill, SkillRegistry, STOP_SKILL

LARGE = 40
"""Most skills of a registry of which the model is always shown all."""
DEFAULT_SHORTLIST = 24
"""Number of skills that it is shown of a larger one; 0: all. docs/latency.md has its figures."""
COMMON = 8
"""How many of them it is always shown, at least: ``stop`` and the first ones of the registry."""

Learned = Mapping[str, Mapping[str, float]]
"""Weights of words and pairs of words, by skill; see ``drafter.skill_words``."""

_NAME, _DESCRIPTION, _CHOICE, _UNIT, _EXAMPLE, _ARGUMENT = 3.0, 2.0, 2.0, 2.0, 1.5, 0.5
_EARLIER = 0.5
"""What a sentence counts that was said before."""
_NOTHING = frozenset(
    """
    a an the this that these those i me my mine we us our you your he him his she her it its they
    them their and or but please could can would will shall should do does did be is are was were
    been am have has had to of for with then now just so let want need like robot hey ok okay
    """.split()  # noqa: SIM905 (a list of quoted words says the same on thirty lines)
)
_STEMMER = snowballstemmer.stemmer("english")  # Porter 2


class Shortlist:
    """Chooses among the skills of one registry.

    Attributes:
        common: The skills that are always chosen, in their order.
    """

    def __init__(self, registry: SkillRegistry, size: int, learned: Learned | None = None) -> None:
        """Read what every skill says about itself.

        Args:
            registry: The skills.
            size: Number of skills that are chosen, the common ones among them.
            learned: What else is known of some skills.
        """
        first = (name for name in registry.names if name != STOP_SKILL)
        self.common = (STOP_SKILL, *itertools.islice(first, COMMON - 1))
        self._size = size
        self._learned = {n: w for n, w in (learned or {}).items() if n in registry.skills}
        self._units = registry_units(registry)
        self._order = {name: index for index, name in enumerate(registry.skills)}
        by_term: dict[str, dict[str, float]] = collections.defaultdict(dict)
        for skill in registry.skills.values():
            for term, weight in _terms(skill):
                known = by_term[term]
                known[skill.name] = max(weight, known.get(skill.name, 0.0))
        count = len(registry.skills)
        self._weights: dict[str, list[tuple[str, float]]] = {}
        for term, weights in by_term.items():
            rarity = math.log((count + 1) / (len(weights) + 0.5))
            self._weights[term] = [(name, weight * rarity) for name, weight in weights.items()]

    def __call__(self, sentence: str, before: Before = ()) -> tuple[str, ...]:
        """Choose the skills that a sentence may mean.

        Args:
            sentence: The cleaned sentence.
            before: What was said before it, with the answers: their skills are always chosen.

        Returns:
            Names: the common ones, then others in the order of the registry.
        """
        always = set(self.common)
        for _, answer in before:
            always.update(call.skill for call in parse(answer) if call.skill in self._order)
        scores = self._scores(sentence, 1.0)
        for said, _ in before:
            for name, score in self._scores(said, _EARLIER).items():
                scores[name] = max(score, scores.get(name, 0.0))
        ranked = sorted(self._order, key=lambda n: (n not in always, -scores.get(n, 0.0)))
        chosen = set(ranked[: max(self._size, len(always))]).difference(self.common)
        return (*self.common, *sorted(chosen, key=self._order.__getitem__))

    def _scores(self, sentence: str, share: float) -> dict[str, float]:
        spoken = reading.words(sentence)
        terms = {stem for word in spoken for stem in _stems(word)}
        amounts = find_amounts(spoken, self._units)
        terms.update(f"#{unit}" for amount in amounts for unit in amount.units)
        scores: dict[str, float] = collections.defaultdict(float)
        for term in sorted(terms):
            for name, weight in self._weights.get(term, ()):
                scores[name] += weight * share
        if self._learned:
            said = [word.casefold() for word in spoken]
            pairs = map(" ".join, itertools.pairwise(said))
            keys = [(word, f".{word}") for word in said] + [(pair, pair) for pair in pairs]
            for name, known in self._learned.items():
                found = (max(known.get(key, 0.0) for key in both) for both in keys)
                scores[name] += share * sum(found)
        return scores


def _terms(skill: Skill) -> Iterator[tuple[str, float]]:
    said = [(_NAME, skill.name), (_DESCRIPTION, skill.description)]
    said += [(_EXAMPLE, example.say) for example in skill.examples]
    for argument in skill.arguments:
        said.append((_ARGUMENT, argument.name))
        said += [(_CHOICE, choice) for choice in argument.choices]
        for unit in argument.factors:
            yield f"#{unit}", _UNIT
    for weight, text in said:
        for word in text.replace("_", " ").split():
            for stem in _stems(word):
                yield stem, weight


def _stems(word: str) -> Iterator[str]:
    """Give the forms by which a word is known: without what English puts behind a stem."""
    for part in reading.spoken_words(word):
        if part not in _NOTHING:
            yield _STEMMER.stemWord(part)
