"""How pictures look: few colours that colour-blind people tell apart, for light and dark pages.

Blue, vermilion and green are those of Okabe and Ito (2008), «Color Universal Design», darkened or
lightened for the background. Colours name a meaning; what is merely context is grey.

A picture is drawn once, in the colours of a light page. In the SVG that goes into a page they are
replaced by the page's variables, which know the dark ones.
"""

from __future__ import annotations

from collections.abc import Sequence
import html
import io
from pathlib import Path
import re
from typing import Any

from quant_llm_ros.errors import QuantLlmError

INK, MUTED, GRID, SURFACE = "#1a1a19", "#66645f", "#dddbd4", "#fcfcfa"
BLUE, ORANGE, GREEN = "#0069a8", "#c24f00", "#007a58"
# From little to much, one hue; the last is the darkest on a light page.
RAMP = ("#e8f1f8", "#c5dcee", "#9cc4e2", "#6fa9d3", "#438dc1", "#1f70a8", "#0b5487", "#053a61")
_DARK = {
    INK: "#ecebe6",
    MUTED: "#a3a19a",
    GRID: "#3a3935",
    SURFACE: "#191917",
    BLUE: "#5fb0e8",
    ORANGE: "#ff9452",
    GREEN: "#3fcf9f",
    **dict(zip(RAMP, ("#1d2831", "#1f3a4e", "#234f6d", "#2a678f", "#3a82b0", "#579ecb", "#82bce0",
                      "#bcdcf1"), strict=True)),
}  # fmt: skip
_NAMES = {colour: f"--c{number}" for number, colour in enumerate(_DARK)}
WIDTH = 8.2
FONT_PT = 9.0


def css() -> str:
    """Give the definitions of the page's variables, for light and dark pages."""
    light = "".join(f"{name}:{colour};" for colour, name in _NAMES.items())
    dark = "".join(f"{name}:{_DARK[colour]};" for colour, name in _NAMES.items())
    return (
        f":root{{color-scheme:light;{light}}}"
        f"@media(prefers-color-scheme:dark){{:root{{color-scheme:dark;{dark}}}}}"
    )


def variable(colour: str) -> str:
    """Give a colour as the page writes it."""
    return f"var({_NAMES[colour]})"


def figure(height: float, rows: int = 1, columns: int = 1, **settings: Any) -> tuple[Any, Any]:
    """Make a figure and its axes, with nothing in them that is not needed.

    Args:
        height: In inches.
        rows: Rows of axes.
        columns: Columns of axes.
        settings: For matplotlib's ``subplots``.

    Raises:
        QuantLlmError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise QuantLlmError(
            "pictures need matplotlib; run `pip install 'quant_llm_ros[bench]'`"
        ) from error
    style = {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": FONT_PT,
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "axes.labelsize": FONT_PT,
        "axes.edgecolor": GRID,
        "axes.facecolor": SURFACE,
        "axes.titlesize": FONT_PT + 0.5,
        "axes.titlelocation": "left",
        "axes.titlecolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        "xtick.color": GRID,
        "ytick.color": GRID,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED,
        "xtick.labelsize": FONT_PT - 0.5,
        "ytick.labelsize": FONT_PT - 0.5,
        "figure.facecolor": SURFACE,
    }
    with matplotlib.rc_context(style):
        drawn = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = drawn.subplots(rows, columns, **settings)
    return drawn, axes


def svg(drawn: Any, name: str, title: str) -> str:
    """Give a figure as SVG for the inside of a page.

    Args:
        drawn: From :func:`figure`.
        name: Unique on the page.
        title: What the picture says, for people who cannot see it.
    """
    import matplotlib

    out = io.StringIO()
    # Text stays text: small, selectable, and readable by a screen reader. The salt and the empty
    # date make the same picture the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        drawn.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="((?:figure|axes|text|line2d|patch|PathCollection|LineCollection|'
                  r'QuadMesh|FillBetweenPolyCollection|PolyCollection|matplotlib|xtick|ytick)'
                  r'[^"]*)"', "", text)  # fmt: skip
    for colour, variable_name in _NAMES.items():
        text = text.replace(colour, f"var({variable_name})")
    text = text.replace("'DejaVu Sans'", "var(--font)")
    label = html.escape(title, quote=True)
    return re.sub(
        r'<svg ([^>]*?)width="[\d.]+pt"', rf'<svg \1role="img" aria-label="{label}"', text, count=1
    ).replace(' height="', ' data-height="', 1)


def png(drawn: Any, path: Path) -> None:
    """Write a figure as a PNG, in the colours of a light page."""
    drawn.savefig(path, dpi=150, metadata={"Software": None})


def label_points(
    axes: Any, points: Sequence[tuple[float, float]], names: Sequence[str], colours: Sequence[str]
) -> None:
    """Write names beside points, where they hide neither points nor each other.

    A name that finds no place near its point is left out; the table has all.

    Args:
        axes: Drawn to its final limits.
        points: In data coordinates.
        names: Of the points; the first are placed first.
        colours: Of the names.
    """
    axes.figure.draw_without_rendering()
    pixels = axes.transData.transform(points)
    scale = axes.figure.dpi / 72
    frame = axes.get_window_extent()
    taken = [(x - 4 * scale, y - 4 * scale, x + 4 * scale, y + 4 * scale) for x, y in pixels]
    size = FONT_PT - 1
    for (x, y), (at_x, at_y), name, colour in zip(points, pixels, names, colours, strict=True):
        width, height = (0.6 * size * len(name) + 2) * scale, 1.15 * size * scale
        for dx, dy in _OFFSETS:
            left = at_x + dx * scale - (width if dx < 0 else width / 2 if dx == 0 else 0)
            low = at_y + dy * scale - height / 2
            box = (left, low, left + width, low + height)
            inside = frame.x0 <= left and box[2] <= frame.x1 + 60 * scale and frame.y0 <= low
            if inside and box[3] <= frame.y1 and not any(_overlap(box, other) for other in taken):
                align = "right" if dx < 0 else "center" if dx == 0 else "left"
                axes.annotate(
                    name, (x, y), (dx, dy), textcoords="offset points", fontsize=size,
                    color=colour, ha=align, va="center", annotation_clip=False,
                )  # fmt: skip
                taken.append(box)
                break


_OFFSETS = (
    (7, 0), (-7, 0), (0, 10), (0, -10), (7, 9), (7, -9), (-7, 9), (-7, -9), (0, 20), (0, -20),
    (7, 18), (7, -18), (-7, 18), (-7, -18),
)  # fmt: skip


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
