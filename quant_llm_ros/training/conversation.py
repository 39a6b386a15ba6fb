"""Second sentences: what people say when a sentence of theirs was just answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import random

from quant_llm_ros.command.calls import MISSING
from quant_llm_ros.command.skills import ArgumentType
from quant_llm_ros.training.pattern import Span, Value
from quant_llm_ros.training.sentences import Commander, Draft, load_frames
from quant_llm_ros.training.talker import Wish
from quant_llm_ros.training.view import Call, Unsayable

_OPPOSITES = {
    "forward": "backward", "left": "right", "up": "down", "in": "out", "on": "off",
    "open": "close", "raise": "lower", "clockwise": "counterclockwise", "extend": "retract",
    "start": "stop", "lock": "unlock", "north": "south", "east": "west",
}  # fmt: skip
_OPPOSITE: Mapping[str, str] = {**_OPPOSITES, **{b: a for a, b in _OPPOSITES.items()}}
_TO_A_PLACE = ("to", "to", "in", "at", "")


class Conversation:
    """Makes pairs of sentences, the second of which needs the first, or does not."""

    def __init__(self, commander: Commander, other: Callable[[], Draft]) -> None:
        """Take who makes commands, and what may be said whatever was said before."""
        self._commander = commander
        self._other = other
        self._rng: random.Random = commander.rng
        self._frames = load_frames().others

    def follow_up(self) -> Draft:
        """Make a pair; the draft's ``start`` is where the second sentence begins."""
        makers = (self._continued, self._completed, self._corrected, self._another,
                  self._repeated, self._reversed, self._unrelated)  # fmt: skip
        maker = self._rng.choices(makers, (0.26, 0.24, 0.13, 0.09, 0.06, 0.06, 0.16))[0]
        draft = maker()
        if draft.start >= len(draft.words):
            raise Unsayable("nothing was said")
        return draft

    def _continued(self) -> Draft:
        """Go on: «And look for the cup there.», after «Go to the kitchen.»."""
        commander = self._commander
        draft = self._first(Wish())
        commander.speak(draft, self._frames["and_now"])
        last = draft.earlier[-1].view
        draft.calls = list(draft.earlier)
        skill = commander.next_skill([last], Wish())
        commander.continue_with(draft, last, skill)
        draft.calls = draft.calls[len(draft.earlier) :]
        return draft

    def _completed(self) -> Draft:
        """Say what was missing: «Two meters.», after «Drive forward.»."""
        draft = self._first(Wish(incomplete=True))
        call = self._only(draft)
        missing = [name for name, value in call.values.items() if value == MISSING]
        unsaid = [
            name for name, own in call.view.arguments.items()
            if name not in call.values and any(
                a.name == own and a.required for a in call.view.skill.arguments
            )
        ]  # fmt: skip
        if len(missing) + len(unsaid) != 1:
            raise Unsayable("more than one thing is missing")
        name = (missing + unsaid)[0]
        self._commander.speak(draft, self._frames["answering"])
        self._preposition(draft, call, name)
        value = self._commander.talker.value(draft.words, call.view, name)
        if self._rng.random() < 0.2:
            draft.words.append("please")
        draft.calls = [Call(call.view, {**call.values, name: value})]
        return draft

    def _corrected(self) -> Draft:
        """Change a value: «No, to the bathroom.», after «Go to the kitchen.»."""
        draft = self._first(Wish())
        call = self._only(draft)
        name = self._changeable(call)
        self._commander.speak(draft, self._frames["correcting"])
        return self._with_new_value(draft, call, name)

    def _another(self) -> Draft:
        """Ask for the same with another: «And the plate.», after «Bring the cup.»."""
        draft = self._first(Wish())
        call = self._only(draft)
        names = [a for a in call.view.speech.lexicons if isinstance(call.values.get(a), Span)]
        if not names:
            raise Unsayable("nothing that could be another")
        self._commander.speak(draft, self._frames["another"])
        self._with_new_value(draft, call, names[0])
        if self._rng.random() < 0.5:
            draft.words += self._rng.choice(("too", "as well", "also", "next", "now")).split()
        return draft

    def _repeated(self) -> Draft:
        """Ask for the same: «Once more.», after «Turn left.»."""
        draft = self._first(Wish())
        self._commander.speak(draft, self._frames["repeating"])
        draft.calls = list(draft.earlier)
        return draft

    def _reversed(self) -> Draft:
        """Ask for the opposite: «And now back.», after «Drive forward two meters.»."""
        draft = self._first(Wish())
        call = self._only(draft)
        for name, value in call.values.items():
            opposite = _OPPOSITE.get(value) if isinstance(value, str) else None
            if opposite and (name, opposite) in call.view.choices:
                if call.view.speech.concept == "move":
                    self._commander.speak(draft, self._frames["going_back"])
                elif self._rng.random() < 0.4:
                    self._commander.speak(draft, self._frames["other_way"])
                else:
                    draft.words += self._rng.choice(("and now", "now", "and", "then")).split()
                    draft.words += [opposite, *self._rng.choice(((), ("again",)))]
                draft.calls = [Call(call.view, {**call.values, name: opposite})]
                return draft
        raise Unsayable("nothing has an opposite")

    def _unrelated(self) -> Draft:
        """Two sentences that have nothing to do with each other."""
        draft = self._first(Wish()) if self._rng.random() < 0.8 else self._after(self._other())
        second = self._other()
        shift = len(draft.words)
        draft.words += second.words
        draft.calls = [
            Call(call.view, {name: _shifted(v, shift) for name, v in call.values.items()})
            for call in second.calls
        ]
        draft.question = second.question
        return draft

    def _first(self, wish: Wish) -> Draft:
        return self._after(self._commander.single(wish))

    @staticmethod
    def _after(draft: Draft) -> Draft:
        if any(call.view.speech.concept == "stop" for call in draft.calls):
            raise Unsayable("a stop ends a conversation")
        draft.earlier, draft.calls = draft.calls, []
        draft.start = len(draft.words)
        draft.question = False
        return draft

    @staticmethod
    def _only(draft: Draft) -> Call:
        if len(draft.earlier) != 1 or draft.earlier[0].view.speech.concept in ("stop", "say"):
            raise Unsayable("several calls")
        return draft.earlier[0]

    def _changeable(self, call: Call) -> str:
        names = [
            name for name, value in call.values.items()
            if not (isinstance(value, Span) and value.kind == "deictic")
        ]  # fmt: skip
        if not names:
            raise Unsayable("nothing to change")
        return self._rng.choice(names)

    def _preposition(self, draft: Draft, call: Call, name: str) -> None:
        kinds = {a.name: a.type for a in call.view.skill.arguments}
        if kinds[call.view.arguments[name]] is ArgumentType.PLACE:
            draft.words += self._rng.choice(_TO_A_PLACE).split()

    def _with_new_value(self, draft: Draft, call: Call, name: str) -> Draft:
        self._preposition(draft, call, name)
        value = self._commander.talker.value(draft.words, call.view, name)
        if value == call.values[name]:
            raise Unsayable("the same again")
        draft.calls = [Call(call.view, {**call.values, name: value})]
        return draft


def _shifted(value: Value, by: int) -> Value:
    if isinstance(value, Span):
        return dataclasses.replace(value, start=value.start + by, end=value.end + by)
    return value
