"""Whole commands: clauses joined, and what people say around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import random
from typing import Any

from quant_llm_ros.command.calls import PART
from quant_llm_ros.resources import share_path
from quant_llm_ros.training.corpus import Concepts, load_concepts
from quant_llm_ros.training.lexicon import patterns, read_yaml
from quant_llm_ros.training.pattern import Pattern, Said, Span
from quant_llm_ros.training.talker import Talker, USED, Wish
from quant_llm_ros.training.view import Call, SkillView, Unsayable, View

_ASKING = frozenset((
    "what", "what's", "where", "how", "how's", "which", "in", "is", "are", "do", "does", "can",
    "could", "may", "who", "will",
))  # fmt: skip
_STANDS_FOR = (
    (frozenset(("him", "her", "them")), frozenset(("person",))),
    (frozenset(("there", "place")), frozenset(("place",))),
    (frozenset(("it", "them", "that", "this", "those", "one")),
     frozenset(("thing", "device", "openable"))),
)  # fmt: skip
"""Pronouns, and the kinds of names that each may stand for."""
_PUTTING = frozenset(("bring", "place", "deliver"))
_IRREGULAR = {"lie": "lying", "die": "dying", "tie": "tying", "be": "being", "see": "seeing"}
_DOUBLED = frozenset((
    "put", "get", "grab", "set", "stop", "let", "run", "cut", "shut", "spin", "step", "scan",
    "dim", "grip", "drop", "mop", "trim", "map", "tag", "trap", "slip", "skip", "chop", "stir",
    "dip", "fit", "pat", "pet", "plug", "ship", "shop", "sit", "snap", "tap", "top", "trot",
    "wrap", "zip", "plan", "spot", "hop", "lug", "pin", "rub", "wag", "jog", "dig", "prop",
    "swap", "scrub", "skim", "beg", "dot", "strip", "rip", "nod", "flap", "hem", "snip", "clip",
    "crop", "rev", "drag", "unplug", "log", "flag", "shrug", "squat", "slam", "jam", "tip", "hug",
    "flip", "lag", "hit", "cap", "bin", "begin", "slap", "trip", "pop", "rig", "reset", "get",
))  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Frames:
    """What is said around a clause and between two."""

    requests: tuple[Pattern, ...]
    third: tuple[Pattern, ...]
    gerunds: tuple[Pattern, ...]
    openings: tuple[Pattern, ...]
    closings: tuple[Pattern, ...]
    joins: tuple[Pattern, ...]
    arrivals: tuple[Pattern, ...]
    terse_joins: tuple[Pattern, ...]
    once_more: tuple[Pattern, ...]
    remarks: tuple[Pattern, ...]
    others: Mapping[str, tuple[Pattern, ...]]


@functools.lru_cache(maxsize=1)
def load_frames() -> Frames:
    """Read ``config/training/frames.yaml``."""
    document: dict[str, Any] = read_yaml(share_path("config/training/frames.yaml"))
    compiled = {name: patterns(texts) for name, texts in document.items()}
    named = {
        f.name: compiled.pop(f.name) for f in dataclasses.fields(Frames) if f.name != "others"
    }
    return Frames(**named, others=compiled)


@dataclasses.dataclass
class Draft:
    """A sentence before it is written down."""

    words: list[str]
    calls: list[Call]
    question: bool = False
    start: int = 0
    """Where the sentence begins; the words before it are those of an earlier sentence."""
    earlier: list[Call] = dataclasses.field(default_factory=list)
    """Calls of the earlier sentence."""

    @property
    def spans(self) -> list[Span]:
        """Every run of words that an argument copies."""
        calls = (*self.earlier, *self.calls)
        return [v for c in calls for v in c.values.values() if isinstance(v, Span)]


def gerund(verb: str) -> str:
    """Give the ``-ing`` form of an English verb."""
    if verb in _IRREGULAR:
        return _IRREGULAR[verb]
    if verb in _DOUBLED:
        return f"{verb}{verb[-1]}ing"
    if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")):
        return f"{verb[:-1]}ing"
    return f"{verb}ing"


def _repeats(calls: Sequence[Call]) -> bool:
    """Tell whether the same is asked for twice, driving and turning aside."""
    asked = [
        (call.view.skill.name, frozenset(call.values.items()))
        for call in calls
        if call.view.speech.concept not in ("move", "turn")
    ]
    return len(set(asked)) < len(asked)


class Commander:
    """Makes commands over one registry."""

    def __init__(self, rng: random.Random, view: View) -> None:
        """Take the source of chance and the registry."""
        self.rng = rng
        self.view = view
        self.talker = Talker(rng, view)
        self._frames = load_frames()
        self._concepts: Concepts = load_concepts()

    def speak(self, draft: Draft, options: Sequence[Pattern]) -> None:
        """Say one of some patterns without arguments."""
        options[int(self.rng.random() * len(options))].speak(Said(draft.words), self.talker)

    def single(self, wish: Wish | None = None, skill: SkillView | None = None) -> Draft:
        """Make a command of one clause."""
        wish = wish or Wish()
        skill = skill or self._skill_for(wish)
        draft = Draft([], [])
        questions = skill.speech.questions
        if questions and not wish.incomplete and self.rng.random() < 0.35:
            self._open(draft, 0.25)
            start = len(draft.words)
            draft.calls += self.talker.clause(draft.words, skill, wish, among=questions)
            draft.question = draft.words[start] in _ASKING
            return draft
        terse = skill.speech.terse if self._is_terse(wish, 0.06) else ()
        self._around(
            draft, lambda: self._clause(draft, skill, wish, among=terse), terse=bool(terse)
        )
        return draft

    def chain(
        self, length: int, wish: Wish | None = None, unserved: SkillView | None = None
    ) -> Draft:
        """Make a command of several clauses.

        Args:
            length: How many.
            wish: What one of them, taken by chance, shall be like.
            unserved: What one of them, most often the last, asks for besides.
        """
        draft = Draft([], [])
        special = self.rng.randrange(length) if wish else -1
        skills: list[SkillView] = []
        for index in range(length):
            one = wish if wish and index == special else Wish()
            skills.append(self.next_skill(skills, one))
        if unserved:
            skills[-1 if self.rng.random() < 0.7 else self.rng.randrange(length)] = unserved
        if wish and any(skill.speech.concept == "stop" for skill in skills):
            # Where a stop is, nothing else counts.
            raise Unsayable("stop")
        reverse = length == 2 and self.rng.random() < 0.05
        terse = not unserved and self._is_terse(wish, 0.17)

        if reverse and not wish:
            self._open(draft, 0.2)
            self._reversed(draft, skills)
            return draft

        def clauses() -> None:
            among = skills[0].speech.terse if terse else ()
            self._clause(draft, skills[0], wish if wish and special == 0 else Wish(), among=among)
            for index in range(1, length):
                one = wish if wish and index == special else Wish()
                if terse:
                    self._continue_tersely(draft, skills[index])
                else:
                    skills[index], one = self._for_person(draft, skills[index], one)
                    self._continue(draft, skills[index - 1], skills[index], one)
            self._once_more(draft)

        self._around(draft, clauses, chained=True, terse=terse)
        if _repeats(draft.calls):
            raise Unsayable("nobody says it twice")
        return draft

    def several(self) -> Draft:
        """Make a command with one verb for several things: «the cup and the plate»."""
        fitting = [
            s for s in self.view.skills
            if any(s.speech.lexicons.get(a) for a in s.arguments) and s.speech.concept != "say"
        ]  # fmt: skip
        if not fitting:
            raise Unsayable("no skill takes names")
        skill = self.rng.choice(fitting)
        wish = Wish(several=self.rng.choice((2, 2, 2, 3)))
        draft = Draft([], [])
        self._around(draft, lambda: self._clause(draft, skill, wish))
        if len(draft.calls) < 2 or _repeats(draft.calls):
            raise Unsayable("one thing only")
        return draft

    def _skill_for(self, wish: Wish) -> SkillView:
        skills = [
            s for s in self.view.skills if s.speech.concept != "stop" or self.rng.random() < 0.3
        ]
        if wish.incomplete:
            skills = [s for s in skills if any(a.required for a in s.skill.arguments)]
        if wish.outside:
            skills = [s for s in skills if any(a.unit for a in s.skill.arguments)]
        if not skills:
            raise Unsayable("no such skill")
        return self.rng.choice(skills)

    def next_skill(self, before: Sequence[SkillView], wish: Wish) -> SkillView:
        """Choose what to ask for after some skills."""
        if not before or wish.incomplete or wish.outside or self.rng.random() < 0.25:
            skill = self._skill_for(wish)
        else:
            then = self._concepts.then.get(before[-1].speech.concept, ())
            # A concept that comes next more often is written there more often.
            fitting = [s for c in then for s in self.view.skills if s.speech.concept == c]
            skill = self.rng.choice(fitting) if fitting else self._skill_for(wish)
        # A stop that is not the whole of a command is rare, and stands first.
        if skill.speech.concept == "stop" and (before or self.rng.random() < 0.8):
            raise Unsayable("stop")
        return skill

    def _for_person(self, draft: Draft, skill: SkillView, wish: Wish) -> tuple[SkillView, Wish]:
        """Where somebody was named last, often choose what is done with persons."""
        last = draft.calls[-1]
        persons = any(isinstance(v, Span) and v.kind == "person" for v in last.values.values())
        plain = skill.is_served and not (wish.incomplete or wish.outside)
        if not (persons and plain) or self.rng.random() < 0.3:
            return skill, wish
        fitting = [
            s for s in self.view.skills
            if s is not last.view
            and any(self.talker.lexicons[n].kind == "person" for n in s.speech.lexicons.values())
        ]  # fmt: skip
        if not fitting:
            return skill, wish
        return self.rng.choice(fitting), dataclasses.replace(wish, pronoun_share=0.9)

    def _points_back(self, draft: Draft, start: int, named: Sequence[Span]) -> bool:
        """Tell whether a pronoun from ``start`` on can stand for something that was named."""
        kinds = {span.kind for span in named}
        if any(self.talker.is_used(draft.words, s, kind) for s in named for kind in USED):
            kinds.add("thing")
        copied = {i for s in draft.spans if s.start >= start for i in range(s.start - 1, s.end)}
        said = {
            word.rstrip(",.;")
            for i, word in enumerate(draft.words[start:], start)
            if i not in copied  # nor the word before: «that» in «that cup» is no pronoun
        }
        return any(said & pronouns and kinds & fitting for pronouns, fitting in _STANDS_FOR)

    def _is_terse(self, wish: Wish | None, share: float) -> bool:
        plain = wish is None or not (wish.incomplete or wish.outside)
        return plain and self.rng.random() < share

    def _clause(
        self, draft: Draft, skill: SkillView, wish: Wish, *, among: Sequence[Pattern] = ()
    ) -> None:
        draft.calls += self._calls_of(draft, skill, wish, among=among)

    def _calls_of(
        self, draft: Draft, skill: SkillView, wish: Wish, *, among: Sequence[Pattern] = ()
    ) -> list[Call]:
        """Say a clause and give the calls that it asks for."""
        if skill.is_served:
            return self.talker.clause(draft.words, skill, wish, among=among)
        start = len(draft.words)
        self.talker.clause(draft.words, SkillView.plain(skill.speech), wish)
        return [Call(skill, {PART: Span(start, len(draft.words))})]

    def _continue_tersely(self, draft: Draft, skill: SkillView) -> None:
        """Say «lamp off, then two meters back»: clauses that mostly have no verb."""
        self.speak(draft, self._frames.terse_joins)
        among = skill.speech.terse if self.rng.random() < 0.8 else ()
        wish = Wish(referents=self._referents(draft, skill))
        self._clause(draft, skill, wish, among=among)

    def _once_more(self, draft: Draft) -> None:
        """Say «and once more», where the last call moved the robot."""
        last = draft.calls[-1]
        moved = last.view.is_served and last.view.speech.concept in ("move", "turn")
        if moved and self.rng.random() < 0.05:
            self.speak(draft, self._frames.once_more)
            draft.calls.append(last)

    def _continue(self, draft: Draft, last: SkillView, skill: SkillView, wish: Wish) -> None:
        if self._elliptic(draft, last, skill, wish):
            return
        frames = self._frames
        arrived = last.speech.concept == "go_to" and self.rng.random() < 0.1
        self.speak(draft, frames.arrivals if arrived else frames.joins)
        if self.rng.random() < 0.07:
            self.speak(draft, frames.others["again_requests"])
        start, named = len(draft.words), draft.spans
        self._refer_back(draft, skill, wish)
        if wish.incomplete and self._points_back(draft, start, named):
            raise Unsayable("it was named before")

    def continue_with(self, draft: Draft, last: SkillView, skill: SkillView) -> None:
        """Say a clause that may leave out or refer to what the last one named."""
        if not self._elliptic(draft, last, skill, Wish()):
            self._refer_back(draft, skill, Wish())

    def _elliptic(self, draft: Draft, last: SkillView, skill: SkillView, wish: Wish) -> bool:
        """Say «then two meters back», where that continues what was asked for."""
        again = last.speech.again
        plain = not (wish.incomplete or wish.outside)
        if skill is not last or not again or not plain or self.rng.random() >= 0.7:
            return False
        draft.calls += self.talker.clause(draft.words, skill, wish, among=again)
        return True

    def _refer_back(self, draft: Draft, skill: SkillView, wish: Wish) -> None:
        referents = self._referents(draft, skill)
        self._clause(draft, skill, dataclasses.replace(wish, referents=referents))

    def _referents(self, draft: Draft, skill: SkillView) -> list[Span]:
        last = draft.calls[-1]
        spans = [
            value
            for name, value in last.values.items()
            # «Take it from the shelf and bring it there» does not mean the shelf.
            if isinstance(value, Span)
            and not (name == "source" and skill.speech.concept in _PUTTING)
        ]
        if skill.speech.concept in ("go_to", last.view.speech.concept):
            spans = [s for s in spans if s.kind != "place"]
        if sum(c.view is last.view for c in draft.calls) > 1:
            return []
        return [s for s in spans if s.kind != "deictic"]

    def _reversed(self, draft: Draft, skills: Sequence[SkillView]) -> None:
        """Say «before you do that, do this» and «after doing this, do that»."""
        if self.rng.random() < 0.5:
            draft.words += ["before", "you"]
            second = self._calls_of(draft, skills[1], Wish())
            self._comma(draft)
            first = self._calls_of(draft, skills[0], Wish())
        else:
            draft.words += ["after", "you"]
            first = self._calls_of(draft, skills[0], Wish())
            self._comma(draft)
            second = self._calls_of(draft, skills[1], Wish())
        draft.calls += [*first, *second]

    @staticmethod
    def _comma(draft: Draft) -> None:
        draft.words[-1] += ","

    def _open(self, draft: Draft, share: float) -> None:
        if self.rng.random() < share:
            self.speak(draft, self._frames.openings)

    def _around(
        self, draft: Draft, clauses: Any, *, chained: bool = False, terse: bool = False
    ) -> None:
        """Put politeness and the like around clauses; none stands before terse ones."""
        self._open(draft, 0.22)
        chance = 1.0 if terse else self.rng.random()
        gerunds = False
        if chance < 0.30:
            self.speak(draft, self._frames.requests)
            draft.question = draft.words[-1] != "please" and any(
                w in ("could", "can", "would", "will", "may", "mind") for w in draft.words[:4]
            )
        elif chance < 0.34:
            self.speak(draft, self._frames.third)
        elif chance < 0.37 and not chained:
            self.speak(draft, self._frames.gerunds)
            gerunds = draft.question = True
        start = len(draft.words)
        clauses()
        first = draft.words[start]
        if gerunds:
            if draft.words[start + 1 : start + 2] == ["and"] or not first.isalpha():
                raise Unsayable("no gerund")
            draft.words[start] = gerund(first)
        going = start > 1 and draft.words[start - 2 : start] == ["go", "and"]
        if going and first in ("go", "come", "move", "drive", "head"):
            raise Unsayable("go and go")
        # «Say dinner is ready now»: no one could tell where the text ends.
        said = any(s.kind == "text" and s.end == len(draft.words) for s in draft.spans)
        if not said and self.rng.random() < 0.16:
            self.speak(draft, self._frames.closings)
        elif not said and self.rng.random() < 0.05:
            self.speak(draft, self._frames.remarks)
