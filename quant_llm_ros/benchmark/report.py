"""A run of the benchmark as tables, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
from pathlib import Path
from typing import Any

from rich.table import Table

from quant_llm_ros.benchmark import genai, llama_cpp
from quant_llm_ros.benchmark.ours import PLAIN, SERVED
from quant_llm_ros.benchmark.sample import compare, Result

_LEAST_SHOWN_MS = 0.05


def document(
    results: Sequence[Result],
    start: tuple[float, float] | None = None,
    profiles: Mapping[int, Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """Give all figures of a run; answers are compared with those of plain decoding.

    Args:
        results: Of the contenders.
        start: What ``start.first_decision`` gave.
        profiles: What ``profile.profile`` gave, by number of tokens.
    """
    by_name = {result.contender: result for result in results}
    plain, served = by_name.get(PLAIN), by_name.get(SERVED)
    contenders = []
    for result in results:
        figures = result.figures()
        if plain is not None:
            pairs = zip(plain.samples, result.samples, strict=True)
            figures["same_decisions"] = sum(a.decision == b.decision for a, b in pairs)
            if result.contender.startswith("ours"):
                found = compare(plain.samples, result.samples)
                figures["same_answers"] = found.same
                figures["ties"] = list(found.ties)
                figures["different_answers"] = list(found.different)
                figures["probability_error"] = found.probability_error
        contenders.append(figures)
    if served is not None:
        p50 = served.figures()["total_ms"]["p50"]
        for figures in contenders:
            figures["served_over_this"] = round(p50 / figures["total_ms"]["p50"], 4)
    document: dict[str, Any] = {"contenders": contenders}
    if start is not None:
        document["first_decision_s"] = round(start[0], 3)
        document["process_peak_mb"] = round(start[1], 1)
    if profiles:
        document["profiles_ms"] = {str(size): dict(found) for size, found in profiles.items()}
    document["goals"] = goals(document)
    return document


def goals(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Give what is aimed at beside what was measured, for all that was measured.

    Returns:
        Rows of ``figure``, ``target`` (at most) and ``measured``.
    """
    rows = {row["contender"]: row for row in figures["contenders"]}
    found: list[tuple[str, float, float | None]] = []
    for name, target in (
        (llama_cpp.USERS, 0.05),
        (llama_cpp.BEST, 0.25),
        (genai.USERS, 0.25),
        (genai.GUIDED, 0.25),
        (genai.BEST, 0.25),
    ):
        if name in rows:
            row = rows[name]
            same = f" ({_of(row, 'same_decisions')} decisions the same)"
            found.append((f"p50 over {name}{same}", target, row.get("served_over_this")))
    served = rows.get(SERVED)
    if served is not None:
        found += [
            ("passes, median", 2, served["passes"]["p50"]),
            ("passes, p90", 4, served["passes"]["p90"]),
        ]
        if "floor_ms" in served:
            one = served["pass_ms_1"]
            found += [
                ("decode ms/token over the bandwidth floor", 1.5, one / served["floor_ms"]),
                ("prefill of 16 new tokens over one decode step", 3, served["pass_ms_16"] / one),
            ]
        if "different_answers" in served:
            found.append(("answers that drafts changed", 0, len(served["different_answers"])))
    found.append(("process start to first decision, s", 3, figures.get("first_decision_s")))
    found.append(("peak memory of that process, MB", 400, figures.get("process_peak_mb")))
    return [
        {"figure": name, "target": target, "measured": round(float(value), 3)}
        for name, target, value in found
        if value is not None
    ]


def tables(figures: dict[str, Any]) -> list[Table]:
    """Lay the figures out for a person."""
    rows = figures["contenders"]
    times = _table("from text to decision", (
        "p50 ms", "p90 ms", "p99 ms", "served / this", "passes p50/p90", "tokens",
        "accepted", "same answers", "same decisions",
    ))  # fmt: skip
    for row in rows:
        total, passes = row["total_ms"], row["passes"]
        times.add_row(
            row["contender"],
            *(f"{total[name]:.1f}" for name in ("p50", "p90", "p99")),
            _number(row.get("served_over_this"), ".3f"),
            f"{passes['p50']:g} / {passes['p90']:g}",
            f"{row['tokens_mean']:.1f}",
            _number(row["acceptance"], ".0%"),
            _of(row, "same_answers"),
            _of(row, "same_decisions"),
        )
    costs = _table("what it costs", (
        "prefill ms/token", "decode ms/token", "floor ms", "pass of 16", "per answer token",
        "load ms", "peak MB",
    ))  # fmt: skip
    for row in rows:
        costs.add_row(
            row["contender"],
            *(
                _number(row.get(name), ".2f")
                for name in ("prefill_ms_per_token", "decode_ms_per_token", "floor_ms")
            ),
            _number(row.get("pass_ms_16"), ".1f"),
            _number(row["answer_ms_per_token"], ".1f"),
            f"{row['load_ms']:.0f}",
            f"{row['peak_mb']:.0f}",
        )
    aims = _table("aims", ("measured", "target, at most", ""), first="figure")
    for row in figures["goals"]:
        reached = "reached" if row["measured"] <= row["target"] else "not reached"
        aims.add_row(row["figure"], f"{row['measured']:g}", f"{row['target']:g}", reached)
    return [times, costs, aims, *_profiles(figures)]


def write_json(figures: dict[str, Any], results: Sequence[Result], path: Path) -> None:
    """Write the figures and every sentence's time, passes, answer and decision."""
    samples = {
        result.contender: [
            {
                "text": sample.sentence,
                "answer": sample.answer,
                "decision": sample.decision,
                "total_ms": round(sample.total_ms, 3),
                "passes": sample.passes,
            }
            for sample in result.samples
        ]
        for result in results
    }
    text = json.dumps({**figures, "samples": samples}, ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def _profiles(figures: dict[str, Any]) -> list[Table]:
    profiles = figures.get("profiles_ms")
    if not profiles:
        return []
    sizes = list(profiles)
    names = {name: None for size in sizes for name in profiles[size]}
    grid = _table(
        "what a pass spends its time on, with the profiler on",
        [f"{size} new: ms" for size in sizes],
        first="operator",
    )
    for name in names:
        taken = [profiles[size].get(name, 0.0) for size in sizes]
        if max(taken) >= _LEAST_SHOWN_MS:
            grid.add_row(name, *(f"{ms:.2f}" for ms in taken))
    grid.add_row("all", *(f"{sum(profiles[size].values()):.2f}" for size in sizes))
    return [grid]


def _table(title: str, columns: Sequence[str], first: str = "contender") -> Table:
    grid = Table(title=title)
    grid.add_column(first, no_wrap=True)
    for column in columns:
        grid.add_column(column, justify="right")
    return grid


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _of(row: dict[str, Any], name: str) -> str:
    return f"{row[name]} of {row['n']}" if name in row else "–"
