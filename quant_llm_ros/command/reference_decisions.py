"""Reference decisions: what a bundle's model answered where it was built.

An engine on a device must answer the same. Engines round differently, so only answers of which
the model is sure are taken: where each chosen token is far more likely than the next best, no
rounding turns one into the other, and a different answer is an error of the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import itertools
import json

from quant_llm_ros.command.decision import Decision
from quant_llm_ros.command.skills import SkillRegistry
from quant_llm_ros.engine.bundle import add_file, Bundle
from quant_llm_ros.errors import BundleError

FILE = "reference_decisions.jsonl"

# With a probability of 0.95 for the whole answer, no chosen logit is nearer than ln(19) = 2.9 to
# the next best; the self-test allows logits to move by about 2.4 in the default bundle.
LEAST_CONFIDENCE = 0.95
MOST = 24
_MOST_TRIED = 4 * MOST


@dataclasses.dataclass(frozen=True)
class ReferenceDecision:
    """One command and what the model answered.

    Attributes:
        text: The command.
        answer: The model's answer in the notation of calls.
    """

    text: str
    answer: str


@dataclasses.dataclass(frozen=True)
class DecisionReport:
    """How an engine's answers compare with the reference.

    Attributes:
        checked: Number of commands.
        different: Those with another answer: command, expected answer, answer.
        total_ms: Time from each command to its decision, in milliseconds.
        passes: Passes of the model for each command.
    """

    checked: int
    different: tuple[tuple[str, str, str], ...]
    total_ms: tuple[float, ...]
    passes: tuple[int, ...]

    @property
    def passed(self) -> bool:
        """Whether all answers are the same."""
        return not self.different

    def __str__(self) -> str:
        """Say which answer is another one, for a person."""
        if self.passed:
            return f"{self.checked} decisions are those of the reference"
        text, expected, answer = self.different[0]
        return (
            f"{len(self.different)} of {self.checked} decisions are not those of the reference: "
            f"“{text}” gives {answer or 'no answer'}, expected {expected}"
        )


def sentences(registry: SkillRegistry, others: Iterable[str] = ()) -> Iterator[str]:
    """Give commands to try: in turn another one and an example of the registry.

    Args:
        registry: The bundle's own skills.
        others: Other commands for the same skills.
    """
    by_skill = ([example.say for example in skill.examples] for skill in registry.skills.values())
    # The first example of every skill, then the second of every skill, and so on.
    examples = [say for turn in itertools.zip_longest(*by_skill) for say in turn if say]
    for pair in itertools.zip_longest(others, [*examples, *registry.not_commands]):
        yield from (text for text in pair if text)


def record(
    understand: Callable[[str], Decision], tried: Iterable[str]
) -> tuple[ReferenceDecision, ...]:
    """Decide about commands and keep what the model is sure of.

    Args:
        understand: Decides with the bundle and its own skills, where it was built.
        tried: Commands, the best first.
    """
    kept: dict[str, ReferenceDecision] = {}
    for text in itertools.islice(tried, _MOST_TRIED):
        if len(kept) == MOST:
            break
        decision = understand(text)
        if decision.forward_passes and decision.confidence >= LEAST_CONFIDENCE:
            kept[text] = ReferenceDecision(text, decision.answer)
    return tuple(kept.values())


def write(bundle: Bundle, references: Sequence[ReferenceDecision]) -> Bundle:
    """Write reference decisions into a bundle, among its hashed files.

    Raises:
        BundleError: The bundle is damaged or cannot be written.
    """
    lines = [
        json.dumps(dataclasses.asdict(reference), ensure_ascii=False) for reference in references
    ]
    return add_file(bundle.path, FILE, ("\n".join(lines) + "\n").encode())


def load(bundle: Bundle) -> tuple[ReferenceDecision, ...]:
    """Read a bundle's reference decisions; none where it was built without them.

    Raises:
        BundleError: The file is malformed.
    """
    if FILE not in bundle.files:
        return ()
    path = bundle.file(FILE)
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        return tuple(ReferenceDecision(str(row["text"]), str(row["answer"])) for row in rows)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{path} cannot be read ({error!r}); rebuild the bundle") from error


def check(
    understand: Callable[[str], Decision],
    references: Sequence[ReferenceDecision],
    count: int | None = None,
) -> DecisionReport:
    """Compare an engine's answers with the reference.

    Args:
        understand: Decides with the bundle and its own skills, on the engine.
        references: The bundle's.
        count: Most commands, spread over all; None: all.
    """
    chosen = list(references)
    if count is not None and count < len(chosen):
        chosen = [chosen[index * len(chosen) // count] for index in range(count)]
    decisions: list[Decision] = [understand(reference.text) for reference in chosen]
    return DecisionReport(
        checked=len(chosen),
        different=tuple(
            (reference.text, reference.answer, decision.answer or decision.message)
            for reference, decision in zip(chosen, decisions, strict=True)
            if decision.answer != reference.answer
        ),
        total_ms=tuple(decision.total_ms for decision in decisions),
        passes=tuple(decision.forward_passes for decision in decisions),
    )
