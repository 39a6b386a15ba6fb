"""A run of the benchmark as a table, as JSON and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from quant_llm_ros.benchmark.ours import PLAIN
from quant_llm_ros.benchmark.sample import compare, Result
from quant_llm_ros.errors import EngineError


def document(results: Sequence[Result]) -> dict[str, Any]:
    """Give all figures of a run; answers are compared with those of plain decoding."""
    plain = next((result for result in results if result.contender == PLAIN), None)
    contenders = []
    for result in results:
        figures = result.figures()
        if plain is not None and result.contender.startswith("ours"):
            found = compare(plain.samples, result.samples)
            figures["same_answers"] = found.same
            figures["ties"] = list(found.ties)
            figures["different_answers"] = list(found.different)
            figures["probability_error"] = found.probability_error
        contenders.append(figures)
    return {"contenders": contenders}


def table(figures: dict[str, Any]) -> Table:
    """Lay the figures out for a person."""
    grid = Table(title="from text to decision")
    grid.add_column("contender")
    columns = ("p50 ms", "p90 ms", "p99 ms", "passes p50/p90", "accepted", "same answers",
               "load ms", "peak MB")  # fmt: skip
    for column in columns:
        grid.add_column(column, justify="right")
    for row in figures["contenders"]:
        total, passes = row["total_ms"], row["passes"]
        accepted = row["acceptance"]
        grid.add_row(
            row["contender"],
            *(f"{total[name]:.1f}" for name in ("p50", "p90", "p99")),
            f"{passes['p50']:g} / {passes['p90']:g}",
            "–" if accepted is None else f"{accepted:.0%}",
            f"{row['same_answers']} of {row['n']}" if "same_answers" in row else "–",
            f"{row['load_ms']:.0f}",
            f"{row['peak_mb']:.0f}",
        )
    return grid


def write_json(figures: dict[str, Any], results: Sequence[Result], path: Path) -> None:
    """Write the figures and every sentence's time, passes and answer."""
    samples = {
        result.contender: [
            {
                "text": sample.sentence,
                "answer": sample.answer,
                "total_ms": round(sample.total_ms, 3),
                "passes": sample.passes,
            }
            for sample in result.samples
        ]
        for result in results
    }
    text = json.dumps({**figures, "samples": samples}, ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def draw(results: Sequence[Result], path: Path) -> None:
    """Draw how the times are distributed, as a PNG.

    Raises:
        EngineError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EngineError(
            f"{path} needs matplotlib; run `pip install -r requirements/bench.txt`"
        ) from error
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for result in results:
        times = np.sort([sample.total_ms for sample in result.samples])
        axes.step(times, np.arange(1, len(times) + 1) / len(times), label=result.contender)
    axes.set(xscale="log", xlabel="text to decision, ms", ylabel="share of sentences", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
