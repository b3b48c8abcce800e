"""Draw the mark of the book, two nested loops: its favicon, and the card shown of a link.

    python tools/card.py        # writes book/_static/favicon.svg and book/_static/card.png

The inner loop is a task that is learned, the outer one the learning that is learned. Both files
come from the same outlines, and a second run changes no byte. The card is 1200 by 630 pixels, as
Open Graph asks.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Polygon

STATIC = Path(__file__).resolve().parent.parent / "book" / "_static"
BLUE, ORANGE, INK, PAPER = "#2f5fa8", "#c2500a", "#222222", "#f3f6fb"
TITLE = "Learning to learn"
LINES = [
    "Meta-learning in chapters that run:",
    "every equation is checked,",
    "every number is made again.",
]

Point = tuple[float, float]


def loop(radius: float, width: float, start: float, end: float) -> list[Point]:
    """The outline of a loop with a tip: from one angle round to another, in degrees.

    Angles count as in mathematics, and y points up. The centre is the origin.
    """

    def at(r: float, degrees: float) -> Point:
        return r * math.cos(math.radians(degrees)), r * math.sin(math.radians(degrees))

    angles = [start + (end - start) * n / 48 for n in range(49)]
    outside = [at(radius + width / 2, a) for a in angles]
    inside = [at(radius - width / 2, a) for a in reversed(angles)]
    length = math.degrees(2 * width / radius)  # of the tip, along the loop
    tip = [at(radius + 1.15 * width, end), at(radius, end + length), at(radius - 1.15 * width, end)]
    return [*outside, *tip, *inside]


# In a square from -16 to 16.
OUTER = loop(12.6, 3.4, 130, 410)
INNER = loop(5.8, 2.8, -50, 230)
DOT = 1.9


def favicon() -> str:
    """The mark as SVG."""

    def path(outline: list[Point], colour: str) -> str:
        places = " ".join(f"{16 + x:.2f} {16 - y:.2f}" for x, y in outline)
        return f'<path fill="{colour}" d="M{places}z"/>'

    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
        f"<title>{TITLE}</title>{path(OUTER, ORANGE)}{path(INNER, BLUE)}"
        f'<circle cx="16" cy="16" r="{DOT}" fill="{ORANGE}"/></svg>\n'
    )


def card() -> Figure:
    """The mark with the title and a line on the book, in the fonts that matplotlib carries."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever a chapter has set
        figure = Figure(figsize=(12, 6.3), dpi=100, facecolor=PAPER)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, 1200), ylim=(0, 630))
        axes.axis("off")
        scale, x, y = 13.5, 930, 330
        for outline, colour in ((OUTER, ORANGE), (INNER, BLUE)):
            places = [(x + scale * u, y + scale * v) for u, v in outline]
            axes.add_patch(Polygon(places, closed=True, facecolor=colour, edgecolor="none"))
        axes.add_patch(Circle((x, y), scale * DOT, facecolor=ORANGE, edgecolor="none"))
        axes.text(70, 400, TITLE, fontsize=42, fontweight="bold", color=INK)
        for number, line in enumerate(LINES):
            axes.text(70, 310 - 46 * number, line, fontsize=20, color=INK)
        axes.text(70, 100, "a book and a PyTorch package, metanotes", fontsize=16, color=BLUE)
    return figure


def main() -> int:
    (STATIC / "favicon.svg").write_text(favicon(), encoding="utf-8")
    card().savefig(STATIC / "card.png", metadata={"Software": None}, facecolor=PAPER)
    for name in ("favicon.svg", "card.png"):
        print(f"{STATIC / name}: {(STATIC / name).stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
