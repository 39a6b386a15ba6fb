"""How pictures look: few colours that colour-blind people tell apart, for light and dark pages.

Blue, vermilion and green are those of Okabe and Ito (2008), «Color Universal Design», darkened or
lightened for the background. Colours name a meaning; what is merely context is grey.

A picture is drawn once, in the colours of a light page. In the SVG that goes into a page they are
replaced by the page's variables, which know the dark ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
import html
import io
from pathlib import Path
import re
from typing import Any, cast, TypeVar

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
_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": FONT_PT,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.labelsize": FONT_PT,
    "axes.edgecolor": GRID,
    "axes.facecolor": SURFACE,
    "axes.titlesize": FONT_PT,
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
    "savefig.facecolor": SURFACE,
    # Text stays text: small, selectable, and readable by a screen reader.
    "svg.fonttype": "none",
    "svg.hashsalt": "quant_llm_ros",
}

_Draw = TypeVar("_Draw", bound=Callable[..., Any])


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


def styled(draw: _Draw) -> _Draw:
    """Make a function draw in this style, whatever the user's settings of matplotlib are.

    Raises:
        QuantLlmError: From the function, when matplotlib is not installed.
    """

    @functools.wraps(draw)
    def wrapped(*given: Any, **named: Any) -> Any:
        try:
            from matplotlib import style
        except ImportError as error:
            raise QuantLlmError(
                "pictures need matplotlib; run `pip install 'quant_llm_ros[bench]'`"
            ) from error
        with style.context(["default", _STYLE]):
            return draw(*given, **named)

    return cast(_Draw, wrapped)


def figure(height: float, rows: int = 1, columns: int = 1, **settings: Any) -> tuple[Any, Any]:
    """Make a figure and its axes.

    Args:
        height: In inches.
        rows: Rows of axes.
        columns: Columns of axes.
        settings: For matplotlib's ``subplots``.
    """
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(WIDTH, height), layout="constrained")
    return drawn, drawn.subplots(rows, columns, **settings)


@styled
def svg(drawn: Any, name: str, title: str) -> str:
    """Give a figure as SVG for the inside of a page.

    Args:
        drawn: From :func:`figure`.
        name: Unique on the page.
        title: What the picture is, for people who cannot see it.
    """
    out = io.StringIO()
    # The empty date and the salt of the style make the same picture the same bytes.
    drawn.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    # Pictures on one page must not share identifiers; most of them nobody refers to.
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    for colour, variable_name in _NAMES.items():
        text = text.replace(colour, f"var({variable_name})")
    text = text.replace("'DejaVu Sans'", "var(--font)")
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    label = html.escape(title, quote=True)
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


@styled
def png(drawn: Any, path: Path) -> None:
    """Write a figure as a PNG, in the colours of a light page."""
    drawn.savefig(path, dpi=150, metadata={"Software": None})


def beside_bar(axes: Any, length: float, place: float, text: str) -> None:
    """Write a figure at the end of a horizontal bar."""
    axes.annotate(
        text, (length, place), (5, 0), textcoords="offset points", va="center", color=INK
    )


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
                    # From further away a line shows which point is meant.
                    arrowprops={"arrowstyle": "-", "color": GRID} if abs(dy) > 12 else None,
                )  # fmt: skip
                taken.append(box)
                break


_OFFSETS = (
    (7, 0), (-7, 0), (0, 10), (0, -10), (7, 9), (7, -9), (-7, 9), (-7, -9), (0, 20), (0, -20),
    (7, 18), (7, -18), (-7, 18), (-7, -18),
)  # fmt: skip


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
