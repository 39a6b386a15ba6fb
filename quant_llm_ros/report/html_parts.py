"""Tables and sections of the page as HTML. All text that comes from files is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import html
from typing import Any

from quant_llm_ros.report.table import COLUMNS, note
from quant_llm_ros.report.text import GLOSSARY, Section

_SHOWN = 12


def section(about: Section, content: str, **figures: Any) -> str:
    """Lay out a section: heading, picture or table, text, sources.

    Args:
        about: What it says.
        content: Picture or table, HTML.
        figures: For the braces of its text; texts among them are escaped here.
    """
    safe = {k: html.escape(v) if isinstance(v, str) else v for k, v in figures.items()}
    first, *rest = [f"<p>{text.format(**safe)}</p>" for text in about.text]
    sources = "".join(f"<li>{html.escape(source)}</li>" for source in about.sources)
    listed = f'<ul class="sources">{sources}</ul>' if sources else ""
    return (
        f'<section><h2 id="{about.name}">{html.escape(about.title)}</h2>\n'
        f"{first}\n{content}\n{''.join(rest)}\n{listed}</section>\n"
    )


def picture(svg: str) -> str:
    """Wrap an SVG."""
    return f"<figure>{svg}</figure>"


def absent(what: str) -> str:
    """Say that something was not given or not measured."""
    return f'<p class="absent">{html.escape(what)}</p>'


def contents(sections: Sequence[Section]) -> str:
    """List sections, in their order on the page."""
    items = "".join(
        f'<li><a href="#{about.name}">{html.escape(about.title)}</a></li>' for about in sections
    )
    return f"<nav><ol>{items}</ol></nav>"


def glossary() -> str:
    """List the words; their explanations are the page's own HTML."""
    return "<dl>" + "".join(f"<dt>{word}</dt><dd>{what}</dd>" for word, what in GLOSSARY) + "</dl>"


def rows_table(rows: Sequence[Mapping[str, Any]], best: set[str]) -> str:
    """Lay out the rows of a sweep; those of the front stand out."""
    head = "".join(f"<th>{html.escape(column.title)}</th>" for column in COLUMNS)
    body = []
    for row in rows:
        name, said = html.escape(row["name"]), note(row)
        mark = ' class="best"' if row["name"] in best else ""
        cells = "".join(f"<td>{column.text(row)}</td>" for column in COLUMNS)
        body.append(f"<tr{mark}><td>{name}</td>{cells}</tr>")
        if said:
            body.append(
                f'<tr><td></td><td class="note" colspan="{len(COLUMNS)}">{html.escape(said)}</td>'
                "</tr>"
            )
    return (
        f'<div class="wide"><table><thead><tr><th>recipe</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def confusion_tables(row: Mapping[str, Any]) -> str:
    """Lay out a row's classes with the most errors, and what was mistaken for what."""
    classes: dict[str, list[int]] = {}
    confusions: dict[tuple[str, str], int] = {}
    for figures in row["measured"]["datasets"].values():
        for name, counts in figures["classes"].items():
            known = classes.setdefault(name, [0, 0])
            known[0] += counts["n"]
            known[1] += counts["n"] - counts["right"]
        for found in figures["confusion"]:
            key = (found["meant"], found["decided"])
            confusions[key] = confusions.get(key, 0) + found["n"]
    worst = sorted(classes.items(), key=lambda item: -item[1][1] / item[1][0])[:_SHOWN]
    pairs = sorted(confusions.items(), key=lambda item: -item[1])[:_SHOWN]
    result = ""
    if worst:
        lines = [
            f'<tr><td class="text">{html.escape(name)}</td><td>{n}</td><td>{wrong}</td>'
            f'<td class="text">{_bar(wrong / n)} {wrong / n:.0%}</td></tr>'
            for name, (n, wrong) in worst
        ]
        result += _table(("kind of sentence", "sentences", "wrong", "share wrong"), lines)
    if pairs:
        most = pairs[0][1]
        lines = [
            f'<tr><td class="text">{html.escape(meant)}</td>'
            f'<td class="text">{html.escape(decided)}</td>'
            f'<td class="text">{_bar(times / most / 2)} {times}</td></tr>'
            for (meant, decided), times in pairs
        ]
        result += _table(("meant", "decided", "times"), lines)
    return result or absent("Nothing was mistaken: every skill and status is right.")


def _table(head: Sequence[str], lines: Sequence[str]) -> str:
    cells = "".join(
        f'<th class="text">{name}</th>'
        if name not in ("sentences", "wrong")
        else f"<th>{name}</th>"
        for name in head
    )
    return (
        f'<div class="wide"><table><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _bar(share: float) -> str:
    return f'<span class="bar" style="width:{share * 12:.2f}em"></span>'
