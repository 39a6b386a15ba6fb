"""Training sentences: groups of them over one registry each, which becomes one prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import random

from quant_llm_ros.command.amounts import find_amounts
from quant_llm_ros.command.calls import MISSING, parse, PART, UNSERVED
from quant_llm_ros.command.skills import Argument, ArgumentType, SkillRegistry
from quant_llm_ros.command.text import clean, words
from quant_llm_ros.training.conversation import Conversation
from quant_llm_ros.training.corpus import default_kind, other_kinds, RobotKind
from quant_llm_ros.training.derive import derive, with_examples
from quant_llm_ros.training.from_examples import kind_of
from quant_llm_ros.training.lexicon import load_lexicons
from quant_llm_ros.training.noise import CLEAN, disturb, Manner, some_manner
from quant_llm_ros.training.others import Bystander
from quant_llm_ros.training.sentences import Commander, Draft
from quant_llm_ros.training.talker import Wish
from quant_llm_ros.training.view import Unsayable, View, write_answer

MAX_CHARS = 512
"""Longest sentence, as at run time."""

KINDS: Mapping[str, float] = {
    "command": 0.28,
    "chain": 0.26,
    "small_talk": 0.14,
    "foreign": 0.04,
    "partly_served": 0.05,
    "reported": 0.03,
    "injection": 0.022,
    "incomplete": 0.08,
    "negated": 0.03,
    "mixed": 0.05,
    "out_of_range": 0.03,
    "follow_up": 0.055,
}
"""Kinds of sentences and their default shares.

``command`` has one call (several where one verb has several objects), ``chain`` two to four, of
``incomplete`` and ``out_of_range`` some have several too. ``small_talk`` is anything but a
command, home-assistant requests included; ``foreign`` asks for a skill that the registry lacks,
``partly_served`` for one beside others that it has; ``reported`` is said by others, hypothetical
or past. ``mixed`` has a command beside something negated, taken back or told. ``follow_up`` is
the second sentence of two.
"""

_ATTEMPTS = 40


@dataclasses.dataclass(frozen=True)
class TrainingExample:
    """A sentence, the right answer to it, and what kind of sentence it is."""

    text: str
    answer: str
    kind: str
    before: tuple[tuple[str, str], ...] = ()
    """Sentences before it with their answers, where it is part of a conversation."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Sentences that share one registry, hence one prompt."""

    registry: SkillRegistry
    examples: tuple[TrainingExample, ...]


def generate(
    seed: int,
    groups: int,
    group_size: int = 16,
    *,
    default_share: float = 0.6,
    registries: Sequence[SkillRegistry] | None = None,
    kinds: Mapping[str, float] = KINDS,
) -> Iterator[Group]:
    """Make groups of training sentences, the same ones for the same arguments.

    Args:
        seed: Any whole number.
        groups: How many groups.
        group_size: Sentences of a group.
        default_share: Share of groups with a registry as it is: the default one, or one of
            ``registries``. The others have derived ones, of all robots that are known.
        registries: Registries of a user, in place of the default one. Their skills are asked for
            as in their examples, or as in the default registry where a skill is the same.
        kinds: Shares of the kinds of sentences.

    Yields:
        Groups whose answers all hold against their registry.
    """
    rng = random.Random(seed)
    mine = (default_kind(),) if registries is None else tuple(kind_of(r) for r in registries)
    known = (*mine, default_kind(), *other_kinds()) if registries else (*mine, *other_kinds())
    seen: set[int] = set()
    for _ in range(groups):
        if rng.random() < default_share:
            view = View.plain(rng.choice(mine))
        else:
            view = _derived(rng, mine, known)
        yield _group(rng, view, known, group_size, kinds, seen)


def _derived(rng: random.Random, mine: Sequence[RobotKind], known: Sequence[RobotKind]) -> View:
    base = rng.choice(mine) if rng.random() < 0.3 else rng.choice(known)
    if rng.random() < 0.1:
        view = View.plain(base)
    else:
        view = derive(rng, base, known)
    share = rng.choice((0.0, 0.5, 1.0, 1.0, 1.0, 1.0))
    bystander = Bystander(Commander(rng, view), known)
    sentences = []
    for _ in range(rng.choice((0, 1, 2, 2, 3)) if share else 0):
        words_said = bystander.small_talk().words
        sentences.append(" ".join(disturb(rng, words_said, (), CLEAN, frozenset())))
    return with_examples(rng, view, share, sentences)


def _group(
    rng: random.Random,
    view: View,
    known: Sequence[RobotKind],
    size: int,
    kinds: Mapping[str, float],
    seen: set[int],
) -> Group:
    commander = Commander(rng, view)
    makers = _makers(commander, Bystander(commander, known))
    names, shares = list(kinds), list(kinds.values())
    examples = []
    for kind in rng.choices(names, shares, k=size):
        examples.append(_example(rng, view, makers, kind, seen))
    return Group(view.registry, tuple(examples))


def _makers(commander: Commander, bystander: Bystander) -> Mapping[str, Callable[[], Draft]]:
    rng = commander.rng

    def command() -> Draft:
        return commander.single() if rng.random() < 0.93 else commander.several()

    def chain() -> Draft:
        return commander.chain(rng.choices((2, 3, 4), (0.6, 0.28, 0.12))[0])

    def wished(wish: Wish) -> Draft:
        return commander.single(wish) if rng.random() < 0.75 else commander.chain(2, wish)

    ordinary = (command, command, chain, bystander.small_talk, bystander.foreign)
    conversation = Conversation(commander, lambda: rng.choice(ordinary)())
    return {
        "command": command,
        "chain": chain,
        "small_talk": bystander.small_talk,
        "foreign": bystander.foreign,
        "partly_served": bystander.partly_served,
        "reported": bystander.reported,
        "injection": bystander.injection,
        "incomplete": lambda: wished(Wish(incomplete=True)),
        "negated": bystander.negated,
        "mixed": bystander.mixed,
        "out_of_range": lambda: wished(Wish(outside=True)),
        "follow_up": conversation.follow_up,
    }


def _example(
    rng: random.Random,
    view: View,
    makers: Mapping[str, Callable[[], Draft]],
    kind: str,
    seen: set[int],
) -> TrainingExample:
    names = frozenset(w for w in load_lexicons().words["given_names"])
    for attempt in range(_ATTEMPTS):
        if attempt == _ATTEMPTS // 2:
            # This registry has nothing of the kind, for example no amounts.
            kind = "command"
        try:
            example = _written(rng, makers[kind](), kind, names, view.registry)
        except Unsayable:
            continue
        digest = hash((view.registry.names, example.text.casefold(), example.before))
        if digest in seen and attempt < _ATTEMPTS - 5:
            continue
        seen.add(digest)
        check(example, view.registry)
        return example
    return TrainingExample("hello there", "unknown", "small_talk")


def _written(
    rng: random.Random,
    draft: Draft,
    kind: str,
    names: frozenset[str],
    registry: SkillRegistry,
) -> TrainingExample:
    manner = some_manner(rng)
    earlier, now = draft.words[: draft.start], draft.words[draft.start :]
    pieces = disturb(rng, earlier, [s for s in draft.spans if s.end <= draft.start], manner, names)
    spans = [
        dataclasses.replace(s, start=s.start - draft.start, end=s.end - draft.start)
        for s in draft.spans
        if s.start >= draft.start
    ]
    pieces += disturb(rng, now, spans, manner, names)
    text = _text(rng, pieces[draft.start :], manner, draft.question)
    copied = [" ".join(words(piece)) for piece in pieces]
    if not words(text) or len(text) > MAX_CHARS:
        raise Unsayable("no words or too many")
    before: tuple[tuple[str, str], ...] = ()
    if draft.start:
        text_before = _text(rng, pieces[: draft.start], manner, False)
        before = ((text_before, write_answer(draft.earlier, copied)),)
    example = TrainingExample(text, write_answer(draft.calls, copied), kind, before)
    _refuse_unreadable(example, registry)
    return example


def _text(rng: random.Random, pieces: Sequence[str], manner: Manner, question: bool) -> str:
    text = " ".join(" ".join(pieces).split())
    if manner.marks and text and text[-1] not in ".?!" and rng.random() < 0.85:
        mark = "?" if question and rng.random() < 0.9 else rng.choice("....!")
        text = text.rstrip(",;:") + mark
    return text


def _refuse_unreadable(example: TrainingExample, registry: SkillRegistry) -> None:
    """Leave out what a slip has made unreadable: no answer could have it."""
    for call in parse(example.answer):
        if call.skill == UNSERVED.name:
            if not _is_piece(call.arguments[PART], words(example.text)):
                raise Unsayable("a part cannot be copied")
            continue
        for argument in registry.skills[call.skill].arguments:
            if argument.type is not ArgumentType.QUANTITY:
                continue
            value = call.arguments.get(argument.name, MISSING)
            if value != MISSING and value not in _amounts(example, argument):
                raise Unsayable("an amount cannot be read")


def _is_piece(value: str, sentence: Sequence[str]) -> bool:
    return f" {value} " in f" {' '.join(sentence)} "


def _amounts(example: TrainingExample, argument: Argument) -> set[str | None]:
    units = tuple(argument.factors)
    return {
        amount.written(argument.unit, units)
        for text in (example.text, *(text for text, _ in example.before))
        for amount in find_amounts(words(text), units)
    }


def check(example: TrainingExample, registry: SkillRegistry) -> None:
    """Check that an answer is one that the grammar allows for the sentence.

    Raises:
        ValueError: It is not; the message says why.
    """
    texts = (example.text, *(text for text, _ in example.before))
    sentences = [words(clean(text, max_chars=MAX_CHARS)) for text in texts]
    skills = {**registry.skills, UNSERVED.name: UNSERVED}
    for call in parse(example.answer):
        skill = skills.get(call.skill)
        if skill is None:
            raise ValueError(f"{example}: there is no skill {call.skill!r}")
        given = dict(call.arguments)
        order = [a.name for a in skill.arguments if a.name in given]
        if order != list(given):
            raise ValueError(f"{example}: arguments are unknown or out of order")
        for argument in skill.arguments:
            value = given.get(argument.name)
            if value is None:
                if argument.required:
                    raise ValueError(f"{example}: {argument.name} is required")
            elif value == MISSING:
                if not argument.askable:
                    raise ValueError(f"{example}: {argument.name} is never asked for")
            elif argument.type is ArgumentType.CHOICE:
                if value not in argument.choices:
                    raise ValueError(f"{example}: {value!r} is no choice of {argument.name}")
            elif argument.type is ArgumentType.QUANTITY:
                if value not in _amounts(example, argument):
                    raise ValueError(f"{example}: {value!r} is no amount of the sentence")
            elif not any(_is_piece(value, sentence) for sentence in sentences):
                raise ValueError(f"{example}: {value!r} is not a piece of the sentence")
