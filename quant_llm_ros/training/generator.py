"""Training sentences: groups of them over one registry each, which becomes one prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import random

from quant_llm_ros.command.calls import MISSING, parse
from quant_llm_ros.command.skills import ArgumentType, SkillRegistry
from quant_llm_ros.command.text import clean, words
from quant_llm_ros.training.corpus import default_kind, other_kinds, RobotKind
from quant_llm_ros.training.derive import derive, with_examples
from quant_llm_ros.training.from_examples import kind_of
from quant_llm_ros.training.lexicon import load_lexicons
from quant_llm_ros.training.noise import CLEAN, disturb, some_manner
from quant_llm_ros.training.others import Bystander
from quant_llm_ros.training.sentences import Commander, Draft
from quant_llm_ros.training.talker import Wish
from quant_llm_ros.training.view import Unsayable, View, write_answer

MAX_CHARS = 512
"""Longest sentence, as at run time."""

KINDS: Mapping[str, float] = {
    "command": 0.40,
    "chain": 0.22,
    "small_talk": 0.13,
    "foreign": 0.045,
    "reported": 0.03,
    "injection": 0.015,
    "incomplete": 0.08,
    "negated": 0.015,
    "mixed": 0.025,
    "out_of_range": 0.04,
}
"""Kinds of sentences and their default shares.

``command`` has one call (several where one verb has several objects), ``chain`` two to four, of
``incomplete`` and ``out_of_range`` some have several too. ``small_talk`` is anything but a
command, home-assistant requests included; ``foreign`` asks for a skill that the registry lacks;
``reported`` is said by others, hypothetical or past. ``mixed`` has a command beside something
negated, taken back or told.
"""

_ATTEMPTS = 40


@dataclasses.dataclass(frozen=True)
class TrainingExample:
    """A sentence, the right answer to it, and what kind of sentence it is."""

    text: str
    answer: str
    kind: str


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
    share = rng.choice((0.0, 0.3, 0.7, 1.0, 1.0))
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
        return commander.chain(rng.choices((2, 3, 4), (0.74, 0.2, 0.06))[0])

    def wished(wish: Wish) -> Draft:
        return commander.single(wish) if rng.random() < 0.75 else commander.chain(2, wish)

    return {
        "command": command,
        "chain": chain,
        "small_talk": bystander.small_talk,
        "foreign": bystander.foreign,
        "reported": bystander.reported,
        "injection": bystander.injection,
        "incomplete": lambda: wished(Wish(incomplete=True)),
        "negated": bystander.negated,
        "mixed": bystander.mixed,
        "out_of_range": lambda: wished(Wish(outside=True)),
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
            example = _written(rng, makers[kind](), kind, names)
        except Unsayable:
            continue
        digest = hash((view.registry.names, example.text.casefold()))
        if digest in seen and attempt < _ATTEMPTS - 5:
            continue
        seen.add(digest)
        check(example, view.registry)
        return example
    return TrainingExample("hello there", "unknown", "small_talk")


def _written(
    rng: random.Random, draft: Draft, kind: str, names: frozenset[str]
) -> TrainingExample:
    manner = some_manner(rng)
    pieces = disturb(rng, draft.words, draft.spans, manner, names)
    text = " ".join(" ".join(pieces).split())
    if manner.marks and text and text[-1] not in ".?!" and rng.random() < 0.85:
        text = text.rstrip(",;:") + (
            "?" if draft.question and rng.random() < 0.9 else rng.choice("....!")
        )
    copied = [" ".join(words(piece)) for piece in pieces]
    if not words(text) or len(text) > MAX_CHARS:
        raise Unsayable("no words or too many")
    return TrainingExample(text, write_answer(draft.calls, copied), kind)


def check(example: TrainingExample, registry: SkillRegistry) -> None:
    """Check that an answer is one that the grammar allows for the sentence.

    Raises:
        ValueError: It is not; the message says why.
    """
    sentence = f" {' '.join(words(clean(example.text, max_chars=MAX_CHARS)))} "
    for call in parse(example.answer):
        skill = registry.skills.get(call.skill)
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
                if not argument.required:
                    raise ValueError(f"{example}: {argument.name} is optional and missing")
            elif argument.type is ArgumentType.CHOICE:
                if value not in argument.choices:
                    raise ValueError(f"{example}: {value!r} is no choice of {argument.name}")
            elif argument.type is ArgumentType.QUANTITY:
                if value.partition(" ")[2] not in argument.factors:
                    raise ValueError(f"{example}: {value!r} has no unit of {argument.name}")
            elif f" {value} " not in sentence:
                raise ValueError(f"{example}: {value!r} is not a piece of the sentence")
