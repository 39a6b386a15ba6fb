"""From the calls that the model wrote to a checked result: units, limits, known places."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import re

from quant_llm_ros.command import calls as notation
from quant_llm_ros.command import text as reading
from quant_llm_ros.command.amounts import Amount
from quant_llm_ros.command.calls import MISSING, PART, RawCall, UNSERVED
from quant_llm_ros.command.decision import ArgumentValue, SkillCall, Status
from quant_llm_ros.command.quantities import conversion_factor
from quant_llm_ros.command.skills import (
    Argument,
    ArgumentType,
    KNOWN_LISTS,
    Skill,
    SkillRegistry,
    STOP_SKILL,
)
from quant_llm_ros.command.stop_guard import StopGuard
from quant_llm_ros.command.units import fits, written_number
from quant_llm_ros.errors import SkillsError

# Behind one of these, an amount may be said that does not count.
_TAKEN_BACK = frozenset((
    "no", "not", "don't", "sorry", "rather", "instead", "actually", "mean", "meant", "wait",
    "never", "nope", "yes", "yeah", "exactly",
))  # fmt: skip
# With one of these, a command that was said once may be meant more often.
_REPEATED = frozenset((
    "again", "another", "double", "more", "once", "repeat", "repeatedly", "same", "thrice",
    "times", "twice",
))  # fmt: skip
_JOINT = re.compile(r"(?:^|\s+)(?:and then|and|then)(?:\s+|$)")
_QUANTITY = re.compile(rf"({notation.NUMBER}) (.+)")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What an answer of the model amounts to: parts of a decision."""

    status: Status
    calls: tuple[SkillCall, ...] = ()
    message: str = ""
    unserved: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Problem:
    status: Status
    message: str


class Validator:
    """Checks calls against a registry: all of them hold, or none is carried out.

    Attributes:
        known: Known names by list of ``skills.KNOWN_LISTS``; may be replaced at any time.
    """

    def __init__(self, registry: SkillRegistry) -> None:
        """Take a registry and check that its own examples and defaults hold.

        Raises:
            SkillsError: An example or a default breaks the registry's own rules.
        """
        self._registry = registry
        self._is_stop = StopGuard(registry)
        self.known = {names: registry.known(names) for names in KNOWN_LISTS}
        for skill in registry.skills.values():
            for argument in skill.arguments:
                self._check_default(skill, argument)
            for example in skill.examples:
                try:
                    outcome = self.check(notation.parse(example.calls))
                except ValueError as error:
                    outcome = Outcome(Status.ERROR, message=str(error))
                if outcome.status not in (Status.ACCEPTED, Status.STOP, Status.CLARIFY):
                    raise SkillsError(
                        f"{registry.source}: skills.{skill.name}.examples: {example.calls!r} "
                        f"does not hold: {outcome.message}"
                    )

    def check(
        self,
        raw_calls: tuple[RawCall, ...],
        sentence_words: Sequence[str] = (),
        amounts: Sequence[Amount] = (),
    ) -> Outcome:
        """Turn the model's calls into a status, typed calls and a message.

        Args:
            raw_calls: What the model wrote.
            sentence_words: Words of the sentence.
            amounts: Amounts in the sentence, one of which must not be passed over.

        Raises:
            ValueError: A call does not fit the registry at all, which the grammar rules out.
        """
        if not raw_calls:
            return Outcome(Status.UNKNOWN, message="that is not a command for this robot")
        raw_calls = _without_echoes(raw_calls, sentence_words, amounts)
        raw_calls = _without_last_stop(self._with_stops(raw_calls))
        served = [raw for raw in raw_calls if raw.skill != UNSERVED.name]
        unserved = tuple(r.arguments[PART] for r in raw_calls if r.skill == UNSERVED.name)
        missing = f"no skill serves {' and '.join(map(repr, unserved))}"
        if not served:
            return Outcome(Status.UNKNOWN, (), "that is not a command for this robot", unserved)
        checked: list[SkillCall] = []
        problems: list[_Problem] = []
        for raw in served:
            skill = self._registry.skills.get(raw.skill)
            if skill is None:
                raise ValueError(f"there is no skill {raw.skill!r} in {self._registry.source}")
            raw, copied = self._without_copies(skill, raw, sentence_words)
            problems += copied
            arguments, found = self._arguments(skill, raw)
            problems += found
            checked.append(SkillCall(skill.name, arguments, skill.safety))
        if any(call.skill == STOP_SKILL for call in checked):
            # Whatever else was understood: when a stop is among it, stopping is what is safe.
            stop = SkillCall(STOP_SKILL, {}, self._registry.skills[STOP_SKILL].safety)
            return Outcome(Status.STOP, (stop,), "the command says to stop", unserved)
        # A value outside its limits cannot be mended by an answer to a question.
        for status in (Status.REJECTED, Status.CLARIFY):
            for problem in problems:
                if problem.status is status:
                    besides = f" ({missing})" if unserved else ""
                    return Outcome(status, (), problem.message + besides, unserved)
        passed_over = _passed_over(raw_calls, sentence_words, amounts)
        if passed_over:
            question = f"I did not understand all of it: what about {passed_over!r}?"
            return Outcome(Status.CLARIFY, (), question, unserved)
        if not unserved:
            return Outcome(Status.ACCEPTED, tuple(checked))
        if any(raw.skill == UNSERVED.name for raw in raw_calls[: len(served)]):
            # What comes after may need it: «wash the cup and bring it to me».
            message = f"{missing}, and something comes after it; say the rest without it"
            return Outcome(Status.CLARIFY, (), message, unserved)
        return Outcome(Status.ACCEPTED, tuple(checked), missing, unserved)

    def _with_stops(self, raw_calls: Sequence[RawCall]) -> tuple[RawCall, ...]:
        """Let «stop» stay a stop where it was taken for a part that no skill serves.

        Raises:
            ValueError: Such a part has other arguments than its words.
        """
        calls: list[RawCall] = []
        for raw in raw_calls:
            if raw.skill != UNSERVED.name:
                calls.append(raw)
                continue
            if set(raw.arguments) != {PART} or raw.arguments[PART] == MISSING:
                raise ValueError(f"{UNSERVED.name} needs {PART}=, the words of what is not served")
            clauses = [text for text in _JOINT.split(raw.arguments[PART]) if text]
            if not any(map(self._is_stop, clauses)):
                calls.append(raw)
                continue
            for text in clauses:
                stop = self._is_stop(text)
                calls.append(RawCall(STOP_SKILL, {}) if stop else _unserved(text))
        return tuple(calls)

    def _without_copies(
        self, skill: Skill, raw: RawCall, words: Sequence[str]
    ) -> tuple[RawCall, list[_Problem]]:
        """Let words that were said once be part of one argument.

        «Bring the cushions» does not say to where, least of all to the cushions: where an argument
        is optional that copies the words of a required one, it is dropped; where both are
        optional, nobody knows which of them was meant. And in «turn the lamp by the bed on» the
        last word is the state and not a part of the lamp.
        """
        folded = [word.casefold() for word in words]
        pieces = [
            argument
            for argument in skill.arguments
            if argument.type in (ArgumentType.PLACE, ArgumentType.TEXT)
        ]
        chosen = {
            raw.arguments.get(argument.name, "").casefold()
            for argument in skill.arguments
            if argument.type is ArgumentType.CHOICE
        }
        kept = dict(raw.arguments)
        problems = []
        values = [raw.arguments[a.name] for a in pieces if a.name in raw.arguments]
        for value in dict.fromkeys(values):
            having = [a for a in pieces if kept.get(a.name) == value]
            if len(having) > 1 and _count(value, folded) == 1:
                optional = [a.name for a in having if not a.required]
                if len(optional) == len(having):
                    question = f"what is {value!r}: {' or '.join(optional)}?"
                    problems.append(_Problem(Status.CLARIFY, question))
                for name in optional:
                    del kept[name]
            rest, _, last = value.rpartition(" ")
            if last.casefold() not in chosen or _count(last, folded) != 1:
                continue
            if rest and rest.split()[-1].casefold() not in reading.LEADING:
                for argument in having:
                    # Where names are known, they say by themselves what is a part of one.
                    known = bool(argument.known) and bool(self.known[argument.known])
                    if argument.name in kept and not known:
                        kept[argument.name] = rest
        return RawCall(raw.skill, kept), problems

    def _arguments(
        self, skill: Skill, raw: RawCall
    ) -> tuple[dict[str, ArgumentValue], list[_Problem]]:
        values: dict[str, ArgumentValue] = {}
        problems: list[_Problem] = []
        known = {argument.name for argument in skill.arguments}
        if not known.issuperset(raw.arguments):
            raise ValueError(
                f"{skill.name} has no argument {sorted(set(raw.arguments) - known)[0]!r}"
            )
        for argument in skill.arguments:
            text = raw.arguments.get(argument.name)
            if text is None:
                text = _default(argument, raw)
            if text is None and not argument.required:
                continue
            if text is None or text == MISSING:
                problems.append(_Problem(Status.CLARIFY, argument.ask))
                continue
            value = self._value(skill, argument, text)
            if isinstance(value, _Problem):
                problems.append(value)
            else:
                values[argument.decision_name] = value
        return values, problems

    def _value(self, skill: Skill, argument: Argument, text: str) -> ArgumentValue | _Problem:
        if argument.type is ArgumentType.QUANTITY:
            match = _QUANTITY.fullmatch(text)
            if match is None or not fits(match[2], argument.unit):
                raise ValueError(f"{skill.name}: {argument.name}={text!r} is not a quantity")
            factor = conversion_factor(match[2], argument.unit)
            value = float(match[1]) * factor
            if not argument.min <= value <= argument.max:
                bound, word = (
                    (argument.min, "less") if value < argument.min else (argument.max, "more")
                )
                return _Problem(
                    Status.REJECTED,
                    f"{skill.name}: {argument.name} {value:g} {argument.unit} is {word} than the "
                    f"limit of {bound:g} {argument.unit}",
                )
            # Twelve digits: 50 cm are 0.5 m and not 0.5000000000000001 m.
            return float(f"{value:.12g}")
        if argument.type is ArgumentType.CHOICE and text not in argument.choices:
            raise ValueError(f"{skill.name}: {argument.name}={text!r} is not one of its choices")
        if argument.known:
            known = self.known[argument.known]
            found = known.match(text)
            if not found.name:
                return _Problem(Status.CLARIFY, known.question(text, found))
            return found.name
        return text

    def _check_default(self, skill: Skill, argument: Argument) -> None:
        if argument.default is None:
            return
        default = argument.default
        for text in default[1].values() if isinstance(default, tuple) else [default]:
            try:
                problem = self._value(skill, argument, text)
            except ValueError as error:
                problem = _Problem(Status.ERROR, str(error))
            if isinstance(problem, _Problem):
                raise SkillsError(
                    f"{self._registry.source}: skills.{skill.name}.arguments.{argument.name}."
                    f"default {text!r} does not hold: {problem.message}"
                )


def _default(argument: Argument, raw: RawCall) -> str | None:
    if isinstance(argument.default, tuple):
        other, by_choice = argument.default
        return by_choice.get(raw.arguments.get(other, ""))
    return argument.default


def _unserved(part: str) -> RawCall:
    return RawCall(UNSERVED.name, {PART: part})


def _without_last_stop(raw_calls: tuple[RawCall, ...]) -> tuple[RawCall, ...]:
    """Drop the stop of «turn left, then stop»: it is the end of what is to be done."""
    end = len(raw_calls)
    while raw_calls[end - 1].skill == STOP_SKILL:
        end -= 1
        if not any(raw.skill not in (STOP_SKILL, UNSERVED.name) for raw in raw_calls[:end]):
            return raw_calls
    return raw_calls[:end]


def _without_echoes(
    raw_calls: tuple[RawCall, ...], words: Sequence[str], amounts: Sequence[Amount]
) -> tuple[RawCall, ...]:
    """Drop a call that repeats the one before it, where the sentence says it once.

    A robot that was told «forward two meters» must not drive four because the model stuttered.
    """
    folded = [word.casefold() for word in words]
    if not words or _REPEATED.intersection(folded):
        return raw_calls

    def mentions(value: str) -> int:
        return sum(_is(amount, value) for amount in amounts) or _count(value, folded)

    def said_once(call: RawCall) -> bool:
        return max(map(mentions, call.arguments.values()), default=0) == 1

    return tuple(
        call
        for before, call in zip((None, *raw_calls), raw_calls, strict=False)
        if call != before or not said_once(call)
    )


def _count(value: str, folded: Sequence[str]) -> int:
    """Count how often the folded words of a sentence have the words of a value."""
    said = value.casefold().split()
    starts = range(len(folded) - len(said) + 1)
    return sum(list(folded[start : start + len(said)]) == said for start in starts)


def _passed_over(
    raw_calls: Sequence[RawCall], words: Sequence[str], amounts: Sequence[Amount]
) -> str:
    """Give the words of an amount that no call has: a part of the command was lost.

    One that was said twice has to be there twice: «a meter back, turn left, a meter forward».
    """
    if _TAKEN_BACK.intersection(word.casefold() for word in words):
        return ""
    values = [value for call in raw_calls for value in call.arguments.values()]
    for amount in amounts:
        said = " ".join(words[amount.start : amount.end])
        own = next((value for value in values if _is(amount, value)), None)
        if own is not None:
            values.remove(own)
        elif not any(said in value for value in values):
            return said
    return ""


def _is(amount: Amount, value: str) -> bool:
    return value.startswith(f"{written_number(amount.value)} ")
