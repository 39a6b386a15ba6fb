"""What may come next in an answer, and what in the sentence speaks for it.

An answer is written as the grammar has it: skill, argument, value, and so on to the end. At each
of these places there are some options, each with the names of the features that hold for it. A
drafter has a weight for each name. Names that hold a skill or an argument are learned for these
alone, the others for all that are alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
import dataclasses
import itertools

from quant_llm_ros.command import text as reading
from quant_llm_ros.command.amounts import Amount, find_amounts
from quant_llm_ros.command.calls import (
    MAX_CALLS,
    MISSING,
    parse,
    SEPARATOR,
    UNKNOWN,
    UNSERVED,
)
from quant_llm_ros.command.skills import Argument, ArgumentType, SkillRegistry

Before = Sequence[tuple[str, str]]
"""Sentences of the same conversation before a sentence, with the answers to them."""

END = ""
"""Text of the option that ends the answer."""

_CLOSE = ")"
_REGION = 8
"""Words that one call mostly has."""
_NEAR = 5
"""Words behind a place that say what comes next."""
_LONGEST_VALUE = 8
_JOINTS = frozenset(("and", "then", "after", "before", "plus", "also", "next"))
_PRONOUNS = frozenset(("it", "that", "this", "them", "him", "her", "there", "those", "one"))


@dataclasses.dataclass(frozen=True)
class Option:
    """Something that may come next.

    Attributes:
        text: What it adds to the answer.
        score: Sum of the weights of its features.
        features: Names of its features, in groups that options share.
        end: For a value, index behind its last word in the sentence; 0: it stands elsewhere.
    """

    text: str
    score: float
    features: tuple[Sequence[str], ...]
    end: int = 0


class SentenceView:
    """What the options of one sentence depend on."""

    def __init__(
        self,
        registry: SkillRegistry,
        weights: Mapping[str, float],
        sentence: str,
        before: Before,
        among: Collection[str] | None = None,
    ) -> None:
        """Read a cleaned sentence and what was said before it.

        Args:
            registry: The skills.
            weights: Of the features, by name.
            sentence: The cleaned sentence.
            before: What was said before it, with the answers.
            among: Names of the skills that may be called; None: all.
        """
        names = registry.skills if among is None else among
        self.skills = {name: registry.skills[name] for name in names} | {UNSERVED.name: UNSERVED}
        self.spoken = reading.words(sentence)
        self.words = [word.casefold() for word in self.spoken]
        units = registry_units(registry)
        self.amounts = find_amounts(self.spoken, units)
        self.earlier_values: list[str] = []
        self.earlier_amounts: list[Amount] = []
        self.earlier_skill = ""
        for earlier, answer in before:
            self.earlier_amounts += find_amounts(reading.words(earlier), units)
            for call in parse(answer):
                if call.skill == UNSERVED.name:
                    continue
                self.earlier_skill = call.skill
                values = (value for value in call.arguments.values() if value != MISSING)
                self.earlier_values = [*dict.fromkeys((*self.earlier_values, *values))]
        self._weights = weights
        self._marked = _marked(sentence, self.spoken)

    def option(self, text: str, *features: Sequence[str], end: int = 0) -> Option:
        """Make an option with its score."""
        return Option(text, sum(map(self.score, features)), features, end)

    def score(self, features: Sequence[str]) -> float:
        """Sum of the weights of some features."""
        return sum(filter(None, map(self._weights.get, features)))

    def word(self, index: int) -> str:
        """Word at an index; a mark outside of the sentence."""
        return self.words[index] if 0 <= index < len(self.words) else "^"

    def pair(self, index: int) -> str:
        """Word at an index and the next one."""
        return f"{self.word(index)} {self.word(index + 1)}"

    def mark(self, index: int) -> bool:
        """Whether a mark such as a comma stands before a word."""
        return 0 < index < len(self._marked) and self._marked[index]

    def left(self, index: int, most: int) -> str:
        """How many words there are from an index on, as part of a name."""
        return f"#{min(len(self.words) - index, most)}"

    def joint(self, start: int) -> int:
        """Index where the part of the sentence behind that at an index begins."""
        for index in range(start + 1, len(self.words)):
            if self.mark(index) or self.words[index] in _JOINTS:
                return index
        return len(self.words)


class AnswerState:
    """How far an answer is, and what may come next."""

    def __init__(self, sentence: SentenceView) -> None:
        """Begin an answer."""
        self.ended = False
        self.value: Argument | None = None
        """The argument whose value comes next."""
        self._sentence = sentence
        self._calls = 0
        self._skill = ""
        self._previous = ""
        self._arguments: tuple[Argument, ...] = ()
        self._in_call = self._given = False
        # Values have used up the words before `_front`; those of this call begin at `_begin`.
        self._begin = self._front = 0
        self._used: set[int] = set()

    def options(self) -> list[Option]:
        """Give everything that may come next."""
        if self.value is not None:
            return list(self._values(self.value))
        if self._in_call:
            return list(self._next_arguments())
        return list(self._joints() if self._skill else self._names())

    def take(self, option: Option) -> None:
        """Go on behind an option."""
        if self.value is not None:
            self.value = None
            if option.end:
                words = len(option.text.split(" "))
                self._front = max(self._front, option.end)
                self._used.update(range(option.end - words, option.end))
        elif self._in_call and option.text == _CLOSE:
            self._in_call = False
            self._calls += 1
            if self._front == self._begin:
                self._front = self._sentence.joint(self._begin)
        elif self._in_call:
            name = option.text.strip(", =")
            index = [argument.name for argument in self._arguments].index(name)
            self.value, self._given = self._arguments[index], True
            self._arguments = self._arguments[index + 1 :]
        elif self._skill:
            self.ended = option.text == END
            self._previous, self._skill = self._skill, ""
            self._begin = self._front
        elif option.text == UNKNOWN:
            self.ended = True
        else:
            self._skill = option.text[:-1]
            self._in_call, self._given = True, False
            self._arguments = self._sentence.skills[self._skill].arguments

    def _names(self) -> Iterator[Option]:
        sentence, start = self._sentence, self._begin
        region = sentence.words[start : start + _REGION]
        known = set(region)
        said = [f".{word}" for word in region[:3]] + region[3:]
        said += map(" ".join, zip(["^", *region], region))  # noqa: B905 (one is longer)
        said += [f"{index}{word}" for index, word in enumerate(region[:2])]
        amounts = [amount for amount in sentence.amounts if amount.start >= start]
        said += sorted({f"#{unit}" for amount in amounts for unit in amount.units})
        for name in (*sentence.skills, *(() if self._calls else (UNKNOWN,))):
            key = f"s|{name}|"
            own = [key, f"{key}<{self._previous}", *[key + item for item in said]]
            if name == UNKNOWN:
                yield sentence.option(UNKNOWN, own)
                continue
            if sentence.earlier_skill:
                same = name == sentence.earlier_skill
                own.append(f"s|same{same}{sentence.left(0, 4)}")
            if not known.isdisjoint(name.split("_")):
                own.append("s|named")
            described = sentence.skills[name].description.casefold().split()
            own += ["s|described" for word in described if word in known]
            yield sentence.option(f"{name}(", own)

    def _next_arguments(self) -> Iterator[Option]:
        sentence, front = self._sentence, self._front
        around = ["", sentence.pair(front), *sentence.words[front : front + _NEAR]]
        around += [sentence.left(front, 4), f",{sentence.mark(front)}"]
        amounts = [a for a in sentence.amounts if a.start >= self._begin] or sentence.amounts
        units = {unit for amount in amounts for unit in amount.units}
        for argument in self._possible_arguments():
            kind = name = _CLOSE
            if argument is not None:
                kind, name = argument.type.value, argument.name
            own = [f"a|{self._skill}.{name}|{item}" for item in around]
            own += [f"a|{kind}|{item}" for item in around]
            own += [f"a|{name}|{item}" for item in around]
            if argument is not None and argument.type is ArgumentType.QUANTITY:
                own.append(f"a|amount{not units.isdisjoint(argument.factors)}")
            elif units:
                own.append(f"a|{kind}|amount")
            if argument is not None:
                name = f"{', ' if self._given else ''}{name}="
            yield sentence.option(name, own)

    def _possible_arguments(self) -> Iterator[Argument | None]:
        """Give the arguments that may come next; None stands for the end of the call."""
        for argument in self._arguments:
            quantity = argument.type is ArgumentType.QUANTITY
            if argument.askable or not quantity or self._amounts(argument):
                yield argument
            if argument.required:
                return
        yield None

    def _amounts(self, argument: Argument) -> list[tuple[str, Amount | None]]:
        """Give the amounts that an argument can take; those said earlier without their place."""
        units = tuple(argument.factors)
        here = [
            (amount.written(argument.unit, units), amount) for amount in self._sentence.amounts
        ]
        earlier = [a.written(argument.unit, units) for a in self._sentence.earlier_amounts]
        return [(text, amount) for text, amount in here if text] + [
            (text, None) for text in earlier if text
        ]

    def _values(self, argument: Argument) -> Iterator[Option]:
        sentence = self._sentence
        own, kind = f"v|{self._skill}.{argument.name}|", f"v|{argument.type.value}|"
        if argument.askable:
            region = sentence.words[self._begin : self._begin + _REGION]
            left = sentence.left(self._front, 4)
            said = bool(argument.unit and self._amounts(argument))
            missing = [f"{own}?", f"{kind}?", f"{kind}?amount{said}", f"{kind}?{left}"]
            yield sentence.option(MISSING, missing, [f"{own}?{word}" for word in region])
        if argument.type is ArgumentType.CHOICE:
            yield from self._choices(argument, own)
        elif argument.type is ArgumentType.QUANTITY:
            yield from self._said_amounts(argument)
        else:
            yield from self._pieces(own, kind, f"v|{argument.name}|")

    def _choices(self, argument: Argument, own: str) -> Iterator[Option]:
        region = self._sentence.words[self._begin : self._begin + _REGION]
        said = [*region, *map(" ".join, itertools.pairwise(region))]
        for choice in argument.choices:
            features = [f"{own}{choice}|", f"v|choice{choice.casefold() in region}"]
            features += [f"{own}{choice}|{item}" for item in said]
            features += [f"v|{argument.name}|{choice}|{item}" for item in said]
            yield self._sentence.option(choice, features)

    def _said_amounts(self, argument: Argument) -> Iterator[Option]:
        starts = [amount.start for amount in self._sentence.amounts]
        for text, amount in self._amounts(argument):
            if amount is None:
                yield self._sentence.option(text, ["v|amount earlier"])
                continue
            behind = sum(self._begin <= start < amount.start for start in starts)
            place = "back" if amount.start < self._begin else min(behind, 3)
            features = [f"v|amount{place}", f"v|amount used{amount.start in self._used}"]
            yield self._sentence.option(text, features, end=amount.end)

    def _pieces(self, own: str, kind: str, name: str) -> Iterator[Option]:
        """Give the pieces of the sentence, and the values of earlier answers.

        Args:
            own: Begins the features of this argument of this skill.
            kind: Begins those of all arguments of the type.
            name: Begins those of all arguments of the name.
        """
        sentence = self._sentence
        count = len(sentence.words)
        ends = [self._end_features(index, own, kind, name) for index in range(count)]
        end_scores = [sentence.score(end) for end in ends]
        insides = [[f"{kind}={sentence.word(index)}", f"{kind}+{sentence.mark(index)}"]
                   for index in range(count)]  # fmt: skip
        inside_scores = [sentence.score(inside) for inside in insides]
        sizes = [[f"{own}size{size}"] for size in range(4)]
        size_scores = [sentence.score(size) for size in sizes]
        for begin in range(count):
            start = self._start_features(begin, own, kind, name)
            score = sentence.score(start)
            for last in range(begin, min(begin + _LONGEST_VALUE, count)):
                if last > begin:
                    score += inside_scores[last]
                size = min(last - begin, 3)
                yield Option(
                    " ".join(sentence.spoken[begin : last + 1]),
                    score + end_scores[last] + size_scores[size],
                    (start, ends[last], sizes[size], *insides[begin + 1 : last + 1]),
                    last + 1,
                )
        region = sentence.words[self._begin : self._begin + _REGION]
        pronoun = not _PRONOUNS.isdisjoint(region)
        for age, value in enumerate(reversed(sentence.earlier_values)):
            features = [f"{kind}earlier{pronoun}", f"{own}earlier", f"v|earlier{min(age, 3)}"]
            yield sentence.option(value, features)

    def _start_features(self, index: int, own: str, kind: str, name: str) -> list[str]:
        sentence = self._sentence
        word, before = sentence.word(index), sentence.word(index - 1)
        far = "back" if index < self._begin else min(max(index - self._front, -1), 5)
        features = [f"{kind}used{index in self._used}", f"{kind}far{far}", f"{own}far{far}"]
        features += [f"{key}<{before}" for key in (own, kind, name)]
        features += [f"{key}[{word}" for key in (own, kind, name)]
        features.append(f"{own}<{sentence.pair(index - 2)}")
        return features

    def _end_features(self, index: int, own: str, kind: str, name: str) -> list[str]:
        sentence = self._sentence
        after = sentence.word(index + 1)
        features = [f"{key}>{after}" for key in (own, kind, name)]
        features += [f"{kind},{sentence.mark(index + 1)}", f"{kind}]{sentence.word(index)}"]
        features.append(f"{kind}>{sentence.pair(index + 1)}")
        return features

    def _joints(self) -> Iterator[Option]:
        sentence, front = self._sentence, self._front
        around = ["", sentence.pair(front), *sentence.words[front : front + _NEAR]]
        around += [sentence.left(front, 6), f",{sentence.mark(front)}", f"c{self._calls}"]
        around.append(f"|{self._skill}")
        for text in (END,) if self._calls == MAX_CALLS else (END, SEPARATOR):
            yield sentence.option(text, [f"n|{text}|{item}" for item in around])


def registry_units(registry: SkillRegistry) -> tuple[str, ...]:
    """Give the units of all quantities of a registry."""
    arguments = (argument for skill in registry.skills.values() for argument in skill.arguments)
    return tuple(dict.fromkeys(unit for argument in arguments for unit in argument.factors))


def _marked(sentence: str, words: Sequence[str]) -> list[bool]:
    """Tell before which words a mark such as a comma stands."""
    marked, at = [], 0
    for word in words:
        start = sentence.find(word, at)
        marked.append(any(mark in sentence[at:start] for mark in ",;.!?:"))
        at = start + len(word)
    return marked
