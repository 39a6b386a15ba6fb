"""The table of a sweep, for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

from rich.table import Table

NONE = "–"

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Column:
    """A figure of a row.

    Attributes:
        title: Its heading, with the unit.
        find: Gets the figure from a row's build and measured figures; None where there is none.
        form: Format specification.
    """

    title: str
    find: Callable[[Row, Row], float | None]
    form: str

    def text(self, row: Row) -> str:
        """Give the figure of a row as text."""
        value = self.value(row)
        return NONE if value is None else format(value, self.form)

    def value(self, row: Row) -> float | None:
        """Give the figure of a row, or None."""
        return self.find(row.get("build") or {}, row.get("measured") or {})


def stored_mb(build: Row) -> float | None:
    """Megabytes of all weights as they are stored, from the figures of building."""
    if "bits_per_weight" not in build or "parameters" not in build:
        return None
    return float(build["bits_per_weight"] * build["parameters"] / 8e6)


COLUMNS = (
    Column("bits/weight", lambda build, _: build.get("bits_per_weight"), ".2f"),
    Column("weights MB", lambda build, _: stored_mb(build), ".1f"),
    Column("bundle MB", lambda build, _: build.get("size_mb"), ".1f"),
    Column("skills exact", lambda _, m: m.get("skills_exact"), ".1%"),
    Column("all exact", lambda _, m: m.get("all_exact"), ".1%"),
    Column("right", lambda _, m: m.get("right"), ".1%"),
    Column("perplexity", lambda _, m: m.get("perplexity"), ".2f"),
    Column("KL nats", lambda build, _: build.get("kl_divergence_nats"), ".3f"),
    Column("peak MB", lambda _, m: m.get("peak_memory_mb"), ".0f"),
    Column("prefill ms", lambda _, m: m.get("prefill_ms"), ".1f"),
    Column("decode ms", lambda _, m: m.get("decode_ms"), ".2f"),
    Column("decision ms", lambda _, m: m.get("decision_ms"), ".1f"),
    Column("J/decision", lambda _, m: m.get("joules_per_decision"), ".3f"),
)


def note(row: Row) -> str:
    """Say what is special about a row, or nothing."""
    if row.get("error"):
        return f"failed: {row['error']}"
    if row.get("build") and not row.get("measured"):
        return f"{row['build']['target']}: its engine is built on the device, measure it there"
    without = (row.get("build") or {}).get("weights_without_kernel", 0)
    if without:
        return (
            f"{without:g} of its matrices have no kernel in the runtime: the bundle holds them "
            "unpacked, and its times are those of unpacked weights"
        )
    return ""


def grid(rows: Sequence[Row]) -> Table:
    """Lay rows out for a terminal."""
    table = Table()
    table.add_column("recipe", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column.title, justify="right")
    for row in rows:
        table.add_row(row["name"], *(column.text(row) for column in COLUMNS))
    return table


def markdown(document: Mapping[str, Any]) -> str:
    """Lay a sweep out as Markdown, with what its figures mean."""
    rows: Sequence[Row] = document["rows"]
    what, machine = document["what"], document["machine"]
    head = ["recipe", *(column.title for column in COLUMNS)]
    lines = [
        f"Measured on {machine['model']}, {machine['cores']} cores, {what['threads']} threads.",
        "",
        _line(head),
        _line(["---", *("---:" for _ in COLUMNS)]),
    ]
    lines += [_line([row["name"], *(c.text(row) for c in COLUMNS)]) for row in rows]
    notes = [f"- {row['name']}: {note(row)}" for row in rows if note(row)]
    lines += ["", *notes, *([""] if notes else []), *_legend(document)]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _legend(document: Mapping[str, Any]) -> list[str]:
    what = document["what"]
    sensors = {row["measured"]["energy_sensor"] for row in document["rows"] if row.get("measured")}
    text = (
        f"perplexity on at most {what['windows']} windows of {what['window']} tokens of "
        f"{what['text']}"
        if what["text"]
        else "no text was given for the perplexity"
    )
    return [
        f"Accuracy on {', '.join(what['datasets'])}: *skills exact*, the right skills in the "
        "right order; *all exact*, also every argument; *right*, also the status, with no "
        f"threshold of confidence. {text[0].upper()}{text[1:]}. *KL* is the divergence from the "
        "unquantized model on the examples of skills, empty where all weights were trained for "
        "their bits. *Weights* counts codes, scales and what else a method stores, *bundle* all "
        "files. *Peak* is the most memory of a process "
        "that serves the bundle. *Prefill* is one command behind the prompt, *decode* one token, "
        "*decision* the mean from text to decision.",
        "",
        f"Energy: {', '.join(sorted(sensors)) or 'not measured'}. What no sensor measured stays "
        "empty.",
    ]
