"""Sentences that are no command, and commands in which something is negated or taken back."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import random

from quant_llm_ros.resources import share_path
from quant_llm_ros.training.corpus import load_concepts, RobotKind, SkillSpeech
from quant_llm_ros.training.lexicon import patterns, read_yaml
from quant_llm_ros.training.noise import CLEAN, disturb
from quant_llm_ros.training.pattern import Pattern, Said
from quant_llm_ros.training.sentences import Commander, Draft, gerund, load_frames
from quant_llm_ros.training.talker import Wish
from quant_llm_ros.training.view import SkillView, Unsayable, View, write_answer

_OF_LISTENER = frozenset(("me", "your", "yourself", "you", "my"))

_AT_HOME = ("home_helper", "laundry_robot", "pet_keeper")
"""Robots whose work people ask any robot for."""


@dataclasses.dataclass(frozen=True)
class Domain:
    """Sentences about one matter, no command for robots without the concepts of ``unless``."""

    name: str
    unless: frozenset[str]
    patterns: tuple[Pattern, ...]


@functools.lru_cache(maxsize=1)
def load_domains() -> tuple[Domain, ...]:
    """Read ``config/training/not_commands``."""
    domains = []
    for path in sorted(share_path("config/training/not_commands").glob("*.yaml")):
        for name, fields in read_yaml(path).items():
            unless = frozenset(str(fields.get("unless", "")).split())
            domains.append(Domain(name, unless, patterns(fields["patterns"])))
    return tuple(domains)


class Bystander:
    """Says what is no command for one robot, or only in part."""

    def __init__(self, commander: Commander, kinds: Sequence[RobotKind]) -> None:
        """Take who makes commands, and the robots whose skills this one may lack."""
        self._commander = commander
        self._rng: random.Random = commander.rng
        self._frames = load_frames().others
        concepts = commander.view.concepts
        self._patterns = [p for d in load_domains() if not d.unless & concepts for p in d.patterns]
        near = load_concepts().near
        self._foreign: list[tuple[RobotKind, SkillSpeech]] = [
            (kind, speech)
            for kind in kinds
            for speech in kind.skills.values()
            if speech.concept not in concepts
            and not near.get(speech.concept, frozenset()) & concepts
        ]
        own = commander.view.kind
        self._removed = [pair for pair in self._foreign if pair[0] is own]
        self._at_home = [pair for pair in self._foreign if pair[0].registry.name in _AT_HOME]

    def small_talk(self) -> Draft:
        """Say something that no robot of this kind takes for a command."""
        draft = Draft([], [])
        if self._rng.random() < 0.08:
            self._commander.speak(draft, load_frames().openings)
        pattern = self._patterns[int(self._rng.random() * len(self._patterns))]
        pattern.speak(Said(draft.words), self._commander.talker)
        return draft

    def _missing(self) -> tuple[RobotKind, SkillSpeech]:
        """Choose a skill that this robot lacks, and a robot that has it."""
        if self._removed and self._rng.random() < 0.6:
            return self._rng.choice(self._removed)
        among = self._at_home if self._rng.random() < 0.4 else self._foreign
        if not among:
            raise Unsayable("this robot can do everything")
        return self._rng.choice(among)

    def partly_served(self) -> Draft:
        """Ask for what this robot can do, and for a skill that it lacks besides."""
        _, speech = self._missing()
        length = self._rng.choices((2, 3, 4), (0.62, 0.28, 0.1))[0]
        return self._commander.chain(length, unserved=SkillView.unserved(speech))

    def foreign(self) -> Draft:
        """Ask for a skill that this robot lacks."""
        kind, speech = self._missing()
        other = Commander(self._rng, View(kind.registry, kind, (SkillView.plain(speech),)))
        draft = other.single(Wish())
        draft.calls = []
        return draft

    def reported(self) -> Draft:
        """Say what somebody told, asks about or would do."""
        return self._framed("reported")

    def injection(self) -> Draft:
        """Try to talk the model out of its task."""
        return self._framed("injections")

    def negated(self) -> Draft:
        """Say what not to do."""
        self._no_avoiding()
        return self._framed("negated")

    def _framed(self, frames: str) -> Draft:
        draft = Draft([], [])
        self._commander.speak(draft, self._frames[frames])
        for mark in ("=CLAUSE", "=CALL"):
            if mark in draft.words:
                at = draft.words.index(mark)
                before, after = draft.words[:at], draft.words[at + 1 :]
                inner = Draft([], [])
                self._clause(inner)
                if "i" in before[-5:] and _OF_LISTENER & set(inner.words):
                    raise Unsayable("i would bring me")
                said = disturb(self._rng, inner.words, inner.spans, CLEAN, frozenset())
                if mark == "=CALL":
                    said = write_answer(inner.calls, said).split()
                draft.words = [*before, *said, *after]
        draft.calls = []
        return draft

    def _no_avoiding(self) -> None:
        """A robot that can be told what to avoid may take «don't go near it» for a command."""
        if "avoid" in self._commander.view.concepts:
            raise Unsayable("avoid is a skill")

    def _clause(self, draft: Draft, skill: SkillView | None = None) -> SkillView:
        commander = self._commander
        skills = [s for s in commander.view.skills if s.speech.concept != "stop"]
        if not skills:
            raise Unsayable("nothing but stop")
        skill = skill or self._rng.choice(skills)
        draft.calls += commander.talker.clause(draft.words, skill, Wish())
        return skill

    def mixed(self) -> Draft:
        """Say a command, and what not to do or what is no command."""
        draft = Draft([], [])
        chance = self._rng.random()
        if chance < 0.44:
            self._no_avoiding()
        if chance < 0.22:
            self._commander.speak(draft, self._frames["not_first"])
            self._clause(draft)
            draft.calls = []
            self._commander.speak(draft, self._frames["but_rather"])
            self._clause(draft)
        elif chance < 0.44:
            draft = self._commander.single()
            kept = list(draft.calls)
            self._commander.speak(draft, self._frames["but_not"])
            self._clause(draft)
            draft.calls = kept
        elif chance < 0.52:
            draft = self._commander.single()
            kept = list(draft.calls)
            self._commander.speak(draft, self._frames["instead_of"])
            start = len(draft.words)
            self._clause(draft)
            from_verb = draft.words[start]
            if not from_verb.isalpha():
                raise Unsayable("no gerund")
            draft.words[start] = gerund(from_verb)
            draft.calls = kept
        elif chance < 0.72:
            self._clause(draft)
            self._commander.speak(draft, self._frames["taken_back"])
            draft.calls = []
            self._clause(draft)
        else:
            self._commander.speak(draft, self._frames["reasons"])
            self._clause(draft)
        return draft
