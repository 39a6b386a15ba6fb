"""Saying one clause: a phrase of a skill with its slots filled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import random

from quant_llm_ros.command.calls import MISSING
from quant_llm_ros.command.skills import Argument, ArgumentType
from quant_llm_ros.command.units import number_words
from quant_llm_ros.training.amounts import say_amount
from quant_llm_ros.training.lexicon import Lexicons, load_lexicons, pick
from quant_llm_ros.training.pattern import Pattern, Said, Slot, Span, Value
from quant_llm_ros.training.view import Call, SkillView, Unsayable, View

_PARTICLES = frozenset(("up", "down", "off", "out", "away", "back", "over"))
_SWITCHING = frozenset(("turn", "switch", "put", "power", "flip", "turning", "switching"))
_DEICTIC = {
    "thing": ("it", "that", "this", "it", "this one", "that one", "that thing", "this thing"),
    "device": ("it", "that", "this", "it", "that one", "that thing"),
    "openable": ("it", "that", "this", "it", "that one", "this one"),
    "place": ("there", "there", "over there", "that place"),
    "person": ("them", "him", "her"),
}
_DEICTIC_THING = ("it", "that", "this", "it", "that one", "this one")
_BEFORE_PLACE = frozenset(("at", "on", "in", "from", "near", "by", "of", "above", "under"))
_BEFORE_AMOUNT = frozenset(("to", "by", "at", "for", "of", "with", "within", "over", "around",
                            "about", "exactly"))  # fmt: skip
_VAGUE = (
    "a bit",
    "a little",
    "a little bit",
    "some more",
    "a little further",
    "a few",
    "somewhat",
)
_PRONOUNS = {"person": ("him", "her", "them"), "place": ("there",)}
USED = ("device", "openable")
"""Kinds of names for things that are used where they are."""
_RELATING = frozenset(("of", "by", "near", "in", "on", "at", "to", "behind", "with", "for", "that",
                       "which", "beside", "under"))  # fmt: skip
_CARRYING = frozenset(("bring", "pick", "place", "deliver", "collect"))
_ATTEMPTS = 12


@dataclasses.dataclass
class Wish:
    """What the next clause shall be like.

    Attributes:
        incomplete: Leave out something required.
        outside: Put an amount outside its limits.
        several: How many values an object takes: «the cup and the plate».
        referents: Spans that a pronoun may stand for.
        pronoun_share: How often one does.
    """

    incomplete: bool = False
    outside: bool = False
    several: int = 1
    referents: Sequence[Span] = ()
    pronoun_share: float = 0.6


class Talker:
    """Says clauses of a registry's skills; fills the slots of patterns."""

    def __init__(self, rng: random.Random, view: View) -> None:
        """Take the source of chance and the registry."""
        self.rng = rng
        self.lexicons: Lexicons = load_lexicons()
        self._view = view
        self._skill: SkillView | None = None
        self._wish = Wish()
        self._left_out = ""
        self._used = False
        self._start = 0
        self._by_name: Mapping[str, Argument] = {}

    def clause(
        self,
        words: list[str],
        skill: SkillView,
        wish: Wish,
        *,
        among: Sequence[Pattern] = (),
    ) -> list[Call]:
        """Say a clause.

        Args:
            words: Words said so far; grows.
            skill: The skill to ask for.
            wish: What the clause shall be like.
            among: Patterns to choose from; the skill's phrases where there are none.

        Returns:
            The calls that are meant: one, or several where an object is several things.

        Raises:
            Unsayable: After several attempts nothing could be said as wished.
        """
        start = self._start = len(words)
        self._set(skill, wish)
        for _ in range(_ATTEMPTS):
            said = Said(words)
            self._left_out, self._used = "", False
            options = among or skill.speech.phrases
            if wish.incomplete:
                own = skill.speech.incomplete
                if own and self.rng.random() < 0.6:
                    options = own
                else:
                    self._choose_left_out()
            try:
                options[int(self.rng.random() * len(options))].speak(said, self)
                return self._calls(said, skill, wish)
            except Unsayable:
                del words[start:]
        raise Unsayable(skill.skill.name)

    def value(self, words: list[str], skill: SkillView, argument: str) -> Value:
        """Say nothing but a value of an argument, as in an answer to a question.

        Args:
            words: Words said so far; grows.
            skill: The skill.
            argument: The argument, by its name in the speech.

        Raises:
            Unsayable: It has no value that stands for itself.
        """
        self._start = len(words)
        self._set(skill, Wish())
        said = Said(words)
        self.fill(said, Slot(argument))
        if argument not in self._by_name:
            raise Unsayable("an argument is not in this registry")
        return said.values[argument][0]

    def _set(self, skill: SkillView, wish: Wish) -> None:
        self._skill, self._wish = skill, wish
        self._left_out, self._used = "", False
        self._by_name = {
            old: argument
            for argument in skill.skill.arguments
            for old, new in skill.arguments.items()
            if new == argument.name
        }

    def _choose_left_out(self) -> None:
        # A choice is often told by the verb: only a pattern knows what remains without it.
        written = bool(self._skill and self._skill.speech.incomplete)
        required = [
            old
            for old, argument in self._by_name.items()
            if argument.askable and not (written and argument.type is ArgumentType.CHOICE)
        ]
        if not required:
            raise Unsayable("nothing is ever asked for")
        self._left_out = self.rng.choice(required)

    def _calls(self, said: Said, skill: SkillView, wish: Wish) -> list[Call]:
        if not set(said.values) <= set(skill.arguments):
            raise Unsayable("an argument is not in this registry")
        for argument, values in said.values.items():
            for value in values:
                if (
                    isinstance(value, str)
                    and value != MISSING
                    and self._by_name[argument].type is ArgumentType.CHOICE
                    and (argument, value) not in skill.choices
                ):
                    raise Unsayable("a choice is not in this registry")
        count = max((len(v) for v in said.values.values()), default=1)
        calls = [
            Call(skill, {a: v[min(i, len(v) - 1)] for a, v in said.values.items()})
            for i in range(count)
        ]
        if any(call.missing for call in calls) != wish.incomplete:
            raise Unsayable("incomplete" if not wish.incomplete else "complete")
        if wish.outside and not self._used:
            raise Unsayable("no amount")
        return calls

    def fill(self, said: Said, slot: Slot) -> None:
        """Say a slot and note its value."""
        values = said.values.setdefault(slot.argument, [])
        if slot.value == "":
            self._extend(said, values)
            return
        if values:
            raise Unsayable("an argument is said twice")
        if slot.value is not None:
            values.append(slot.value)
            return
        if slot.words:
            start = len(said.words)
            said.words.extend(slot.words)
            kind = "deictic"
            values.append(Span(start, len(said.words), kind))
            return
        argument = self._by_name.get(slot.argument)
        if argument is None:
            raise Unsayable("an argument is not in this registry")
        if argument.type is ArgumentType.QUANTITY:
            self._amount(said, slot, argument)
        elif argument.type is ArgumentType.CHOICE:
            self._choice(said, slot)
        else:
            self._name(said, slot)

    def _extend(self, said: Said, values: list[Value]) -> None:
        """Let the value reach to the last word said."""
        last = values[-1] if len(values) == 1 else None
        if not isinstance(last, Span) or last.start < self._start or last.kind == "deictic":
            raise Unsayable("nothing to extend")
        values[-1] = dataclasses.replace(last, end=len(said.words))

    def mention(self, said: Said, lexicon: str) -> None:
        """Say something of a lexicon that no argument copies."""
        name = self._view.kind.where if lexicon == "where" else lexicon
        self.lexicons[name].speak(said, self, "!")

    def number(self, said: Said, low: int, high: int) -> None:
        """Say a number that is part of a name."""
        value = self.rng.randint(low, high)
        if self.rng.random() < 0.6:
            said.words.append(str(value))
        else:
            said.words.extend(number_words(value).split())

    def _amount(self, said: Said, slot: Slot, argument: Argument) -> None:
        if slot.argument == self._left_out:
            said.values[slot.argument].append(MISSING)
            chance = self.rng.random()
            if chance < 0.35:
                said.words.extend(pick(self.rng, _VAGUE).split())
            elif chance < 0.65:
                self.number(said, 1, 90)
            else:
                while said.words[-1:] and said.words[-1] in _BEFORE_AMOUNT:
                    said.words.pop()
            return
        try:
            words, written = say_amount(
                self.rng, argument, outside=self._wish.outside and not self._used
            )
        except ValueError as error:
            raise Unsayable("no limits") from error
        self._used = True
        said.words.extend(words)
        said.values[slot.argument].append(written)

    def _choice(self, said: Said, slot: Slot) -> None:
        if self._skill is None:
            raise Unsayable("nothing is being said")
        open_choices = [c for (a, c) in self._skill.choices if a == slot.argument]
        if slot.argument == self._left_out:
            said.values[slot.argument].append(MISSING)
            return
        choice = self.rng.choice(open_choices)
        says = self._skill.speech.says.get(slot.argument, {}).get(choice)
        if says:
            self.rng.choice(says).speak(said, self)
        else:
            said.words.extend(choice.replace("_", " ").split())
        said.values[slot.argument].append(choice)

    def _name(self, said: Said, slot: Slot) -> None:
        if self._skill is None:
            raise Unsayable("nothing is being said")
        name = slot.lexicon or self._skill.speech.lexicons.get(slot.argument, "thing")
        lexicon = self.lexicons[name]
        values = said.values[slot.argument]
        if slot.argument == self._left_out:
            self._refuse_after_particle(said)
            deictic = pick(self.rng, _DEICTIC.get(lexicon.kind, _DEICTIC_THING))
            if deictic.endswith("there"):
                if said.words[-1:] and said.words[-1] in _BEFORE_PLACE:
                    deictic = "that place"
                self._drop_to(said)
            said.words.extend(deictic.split())
            values.append(MISSING)
            return
        if self._wish.referents and self.rng.random() < self._wish.pronoun_share:
            carried = self._skill.speech.concept in _CARRYING
            referents = self._wish.referents
            fitting = [r for r in referents if _may_refer(r.kind, lexicon.kind, carried)]
            if not fitting and lexicon.kind in USED:
                fitting = [r for r in referents if self.is_used(said.words, r, lexicon.kind)]
                if len(fitting) > 1:
                    raise Unsayable("it could be either")
            if fitting:
                self._pronoun(said, slot, fitting[-1], lexicon.kind)
                return
        several = self._wish.several if slot.argument == self._main() else 1
        if lexicon.kind in ("person", "text"):
            several = 1
        for index in range(several):
            if index:
                said.add("and" if index == several - 1 else ",")
            values.append(lexicon.speak(said, self, slot.how if several == 1 else "!"))
        said.plural = said.plural or several > 1

    def _main(self) -> str:
        """Give the argument that several things can fill: the first that is a name."""
        for old, argument in self._by_name.items():
            if argument.type in (ArgumentType.TEXT, ArgumentType.PLACE):
                return old
        return ""

    def is_used(self, words: Sequence[str], named: Span, kind: str) -> bool:
        """Tell whether a place or thing is something to use: «go to the oven and switch it on».

        Args:
            words: Words said so far.
            named: What was named.
            kind: ``device`` or ``openable``.
        """
        name = tuple(words[named.start : named.end])
        # «The table by the window» is no window.
        if named.kind not in ("place", "thing") or _RELATING.intersection(name):
            return False
        names = self.lexicons[kind].names
        return any(name[i:] in names for i in range(len(name)))

    def _pronoun(self, said: Said, slot: Slot, referent: Span, kind: str) -> None:
        if kind == "place":
            last = said.words[-1] if said.words else ""
            if last in ("on", "at", "near", "around", "the", "of", "by", "towards"):
                raise Unsayable("there")
            self._drop_to(said)
            said.add("there")
        else:
            self._refuse_after_particle(said)
            options = _PRONOUNS.get(kind, ("them",) if referent.plural else ("it",))
            said.plural = referent.plural
            said.add(pick(self.rng, options))
        said.values[slot.argument].append(referent)

    @staticmethod
    def _drop_to(said: Said) -> None:
        """«Bring it there», not «bring it to there»."""
        if said.words[-1:] == ["to"]:
            if said.words[-2:-1] in (["next"], ["close"]):
                raise Unsayable("next to there")
            said.words.pop()

    def _refuse_after_particle(self, said: Said) -> None:
        """«Pick it up», but never «pick up it»."""
        if len(said.words) > 1:
            last, before = said.words[-1], said.words[-2]
            if last in _PARTICLES or (last == "on" and before in _SWITCHING):
                raise Unsayable("a pronoun behind a particle")


def _may_refer(referent: str, slot: str, carried: bool) -> bool:
    if slot == "thing":
        # A door that was opened is looked at, but not brought.
        return referent == "thing" or (not carried and referent in ("device", "openable"))
    return referent == slot and referent != "text"
