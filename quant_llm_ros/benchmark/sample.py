"""What one contender did with one sentence, and figures over many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from quant_llm_ros.command import text as reading
from quant_llm_ros.command.decision import SkillCall, Status
from quant_llm_ros.errors import CommandError, DatasetError

TIE = 1e-3
"""Where the two best logits are nearer than this, rounding decides between them."""

_MAX_CHARS = 512


@dataclasses.dataclass(frozen=True)
class Sample:
    """One sentence and its answer.

    Attributes:
        sentence: The cleaned sentence.
        answer: What was answered, in the contender's own notation.
        decision: What it comes to, status and calls; see ``written``.
        total_ms: Time from the sentence to the answer.
        prefill_ms: Time of it until the prompt had gone through the model, in milliseconds.
        decode_ms: Time from there to the answer, in milliseconds.
        passes: Passes of the model; 0 where the contender does not tell.
        tokens: Tokens of the answer.
        choices: Tokens that the grammar left open; 0 where the contender does not tell.
        drafted: Choices for which a guess was looked at.
        accepted: Guesses that were right.
        probability: Of the answer.
        margin: Smallest distance of a chosen logit from the next best.
    """

    sentence: str
    answer: str
    decision: str
    total_ms: float
    prefill_ms: float
    decode_ms: float
    passes: int
    tokens: int
    choices: int = 0
    drafted: int = 0
    accepted: int = 0
    probability: float = 1.0
    margin: float = math.inf


@dataclasses.dataclass(frozen=True)
class Result:
    """What a contender was measured to do.

    Attributes:
        contender: Its name.
        load_ms: Time until the first sentence could be taken, in milliseconds.
        peak_mb: Most memory that its process held, in megabytes.
        samples: One for each sentence.
        extra: Other figures by name.
        runtime: What ran it, with its version.
    """

    contender: str
    load_ms: float
    peak_mb: float
    samples: tuple[Sample, ...]
    extra: dict[str, float] = dataclasses.field(default_factory=dict)
    runtime: str = ""

    def figures(self) -> dict[str, Any]:
        """Give the figures over all sentences."""
        samples = self.samples
        passes = [sample.passes for sample in samples]
        tokens = sum(sample.tokens for sample in samples)
        drafted = sum(sample.drafted for sample in samples)
        return {
            "contender": self.contender,
            "runtime": self.runtime,
            "n": len(samples),
            "total_ms": percentiles([sample.total_ms for sample in samples]),
            "prefill_ms": percentiles([sample.prefill_ms for sample in samples]),
            "decode_ms": percentiles([sample.decode_ms for sample in samples]),
            "passes": {**percentiles(passes), "mean": round(float(np.mean(passes)), 3)},
            "tokens_mean": round(float(np.mean([sample.tokens for sample in samples])), 3),
            "choices_mean": round(float(np.mean([sample.choices for sample in samples])), 3),
            "answer_ms_per_token": round(sum(s.decode_ms for s in samples) / max(tokens, 1), 3),
            "acceptance": round(sum(s.accepted for s in samples) / drafted, 4)
            if drafted
            else None,
            "load_ms": round(self.load_ms, 1),
            "peak_mb": round(self.peak_mb, 1),
            **self.extra,
        }


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Whether two ways of decoding gave the same answers.

    Attributes:
        same: Number of sentences with the same answer.
        ties: Sentences whose answers differ where rounding decided.
        different: Sentences whose answers differ otherwise.
        probability_error: Largest difference of the probabilities of equal answers.
    """

    same: int
    ties: tuple[str, ...]
    different: tuple[str, ...]
    probability_error: float


def compare(expected: Sequence[Sample], samples: Sequence[Sample]) -> Comparison:
    """Compare answers with those of plain decoding, sentence by sentence."""
    same, error = 0, 0.0
    ties, different = [], []
    for plain, sample in zip(expected, samples, strict=True):
        if plain.answer == sample.answer:
            same += 1
            error = max(error, abs(plain.probability - sample.probability))
        elif plain.margin <= TIE:
            ties.append(plain.sentence)
        else:
            different.append(plain.sentence)
    return Comparison(same, tuple(ties), tuple(different), error)


def written(status: Status, calls: Sequence[SkillCall], unserved: Sequence[str] = ()) -> str:
    """Write what a decision is, for comparison: status, calls with arguments, unserved parts."""
    parts = [
        f"{call.skill}({', '.join(f'{name}={value}' for name, value in call.arguments.items())})"
        for call in calls
    ]
    parts += [f"no skill for {part!r}" for part in unserved]
    return " ".join([status.name, "; ".join(parts)]).strip()


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Give p50, p90 and p99."""
    names = ("p50", "p90", "p99")
    found = np.percentile(values, (50, 90, 99))
    return {name: round(float(value), 3) for name, value in zip(names, found, strict=True)}


def load_sentences(
    paths: Iterable[str], count: int, is_stop: Callable[[str], bool] = lambda text: False
) -> list[str]:
    """Read sentences from JSON lines, spread evenly over what the files have.

    Args:
        paths: Files whose rows are objects with ``text``.
        count: Most sentences.
        is_stop: Tells which sentences need no model; they are left out.

    Returns:
        Cleaned sentences that have words.

    Raises:
        DatasetError: A file is missing, or a row is no object with ``text``; or none has words.
    """
    sentences = []
    for path in paths:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path}: {error}; name a file of JSON lines") from error
        for number, line in enumerate(lines, start=1):
            try:
                sentence = reading.clean(str(json.loads(line)["text"]), max_chars=_MAX_CHARS)
            except CommandError:
                continue  # no command for any contender
            except (ValueError, KeyError, TypeError) as error:
                raise DatasetError(
                    f'{path}:{number}: must be a JSON object with "text": {error!r}'
                ) from error
            if reading.words(sentence) and not is_stop(sentence):
                sentences.append(sentence)
    if not sentences:
        raise DatasetError("no sentence has words; name a file with commands")
    if len(sentences) <= count:
        return sentences
    return [sentences[index * len(sentences) // count] for index in range(count)]
