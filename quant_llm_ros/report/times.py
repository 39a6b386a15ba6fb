"""What `quant_llm bench` and `quant_llm growth` measured, read from their files for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from quant_llm_ros.errors import DatasetError

_OURS = "ours"
_PASS = "pass_ms_"
_AXES = {
    "skills": ("skills", "skills"),
    "places": ("known places", "known places"),
    "words": ("words of a sentence", "words"),
    "clients": ("clients of one node", "clients"),
    "models": ("million weights (a pass of 32 tokens)", "million weights"),
}


@dataclasses.dataclass(frozen=True)
class Contender:
    """How long one way to decide takes.

    Attributes:
        name: Of the benchmark.
        p50_ms: Median from text to decision.
        p90_ms: That of nine in ten.
        same: Share of decisions that are those of plain decoding, or None.
        passes_ms: Median of a pass by its number of new tokens.
        floor_ms: Time to read the weights once, or None.
    """

    name: str
    p50_ms: float
    p90_ms: float
    same: float | None
    passes_ms: Mapping[int, float]
    floor_ms: float | None

    @property
    def is_ours(self) -> bool:
        """Whether it is this package itself, with more or less of what makes it fast."""
        return self.name.startswith(_OURS)


@dataclasses.dataclass(frozen=True)
class Bench:
    """A run of ``quant_llm bench``.

    Attributes:
        contenders: In the order in which they were measured.
        sentences: That each of them decided.
    """

    contenders: tuple[Contender, ...]
    sentences: int

    @property
    def served(self) -> Contender:
        """Ours with everything that makes it fast: the last of ours."""
        return [one for one in self.contenders if one.is_ours][-1]

    def said(self) -> str:
        """Say what the picture of its times shows."""
        served, first = self.served, self.contenders[0]
        text = (
            f"As served, half of the sentences are decided within {served.p50_ms:.0f} ms and nine "
            f"in ten within {served.p90_ms:.0f} ms"
        )
        if first is not served:
            text += (
                f"; {_bare(first.name)}, it takes {first.p50_ms:.0f} ms, "
                f"{_factor(first.p50_ms, served.p50_ms)}"
            )
        others = [one for one in self.contenders if not one.is_ours]
        if others:
            best = min(others, key=lambda one: one.p50_ms)
            text += (
                f". The fastest of the other runtimes, {best.name}, takes {best.p50_ms:.0f} ms, "
                f"{_factor(best.p50_ms, served.p50_ms)}"
            )
        return f"{text}."

    def passes_said(self) -> str:
        """Say what the picture of its passes shows."""
        served = self.served
        (least, first), *_, (most, last) = sorted(served.passes_ms.items())
        text = (
            f"As served, {most} tokens take {last:.0f} ms and {_tokens(least)} {first:.1f} ms: "
            f"{last / first:.1f} times as long for {most / least:g} times as many."
        )
        if served.floor_ms:
            text += (
                f" Only to read the weights once takes {served.floor_ms:.1f} ms; the pass over "
                f"{_tokens(least)} takes {first / served.floor_ms:.1f} times that."
            )
        return text


@dataclasses.dataclass(frozen=True)
class Curve:
    """How the time of a decision grows over one thing.

    Attributes:
        label: Of the axis.
        noun: What grows.
        at: Where it was measured, ascending.
        p50_ms: Medians there.
        p90_ms: Times of nine in ten there, or empty.
    """

    label: str
    noun: str
    at: tuple[float, ...]
    p50_ms: tuple[float, ...]
    p90_ms: tuple[float, ...]

    def said(self) -> str:
        """Say what the curve shows."""
        first, last = self.p50_ms[0], self.p50_ms[-1]
        if len(self.at) == 1:
            return f"{self.at[0]:,g} {self.noun}: {first:.0f} ms"
        return (
            f"{self.noun} from {self.at[0]:,g} to {self.at[-1]:,g}: {first:.0f} to {last:.0f} ms, "
            f"{last / first:.1f} times as long"
        )


def read_bench(name: str) -> Bench:
    """Read what ``quant_llm bench --output`` wrote.

    Raises:
        DatasetError: The file is missing or another one.
    """
    data = _read(name, "bench")
    try:
        contenders = tuple(_contender(row) for row in data["contenders"])
        sentences = int(data["contenders"][0]["n"])
        if not any(one.is_ours for one in contenders):
            raise ValueError("it has no measurement of this package itself")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _wrong(name, "bench", error) from error
    return Bench(contenders, sentences)


def read_growth(name: str) -> tuple[Curve, ...]:
    """Read what ``quant_llm growth --output`` wrote.

    Raises:
        DatasetError: The file is missing or another one, or has no point that was measured.
    """
    data = _read(name, "growth")
    try:
        curves = tuple(_curve(axis, rows) for axis, rows in data.items())
        found = tuple(curve for curve in curves if curve.at)
        if not found:
            raise ValueError("no point was measured")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _wrong(name, "growth", error) from error
    return found


def _read(name: str, command: str) -> Any:
    try:
        return json.loads(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"{name}: {error.strerror}") from error
    except ValueError as error:
        raise _wrong(name, command, error) from error


def _wrong(name: str, command: str, error: Exception) -> DatasetError:
    return DatasetError(f"{name} is not what `quant_llm {command} --output` writes: {error!r}")


def _contender(row: Mapping[str, Any]) -> Contender:
    same = row.get("same_decisions")
    floor = row.get("floor_ms")
    return Contender(
        str(row["contender"]),
        _time(row["total_ms"]["p50"]),
        _time(row["total_ms"]["p90"]),
        None if same is None else int(same) / int(row["n"]),
        {
            int(key[len(_PASS) :]): _time(value)
            for key, value in row.items()
            if key.startswith(_PASS)
        },
        None if floor is None else _time(floor),
    )


def _curve(axis: str, rows: Sequence[Mapping[str, Any]]) -> Curve:
    label, noun = _AXES[axis]
    measured = sorted((row for row in rows if row["total_ms"]), key=lambda row: row["at"])
    p50 = tuple(_time(row["total_ms"]["p50"]) for row in measured)
    p90 = tuple(_time(row["total_ms"]["p90"]) for row in measured if "p90" in row["total_ms"])
    at = tuple(_time(row["at"]) for row in measured)
    return Curve(label, noun, at, p50, p90 if len(p90) == len(at) else ())


def _time(value: Any) -> float:
    number = float(value)
    if not 0.0 < number < math.inf:
        raise ValueError(f"{value!r} is not a number above zero")
    return number


def _factor(other: float, own: float) -> str:
    return f"{other / own:.1f} times as long"


def _bare(name: str) -> str:
    """Give one of our steps its name without «ours,»: «with everything off»."""
    return f"with {name.removeprefix(f'{_OURS}, ')}"


def _tokens(count: int) -> str:
    return "a single one" if count == 1 else f"{count} tokens"
