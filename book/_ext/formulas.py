r"""Formulas in a line of text stand in their place from the first, so that no line breaks anew.

MathJax comes after the words. Where a formula takes another width than its TeX did, the words
behind it go to another line, and the page jumps. So each says beforehand how wide it will be:

    <span class="math" style="--width: 4.2ex">\(L(\phi)\)</span>

The width is found by TeX's own rules (Knuth, The TeXbook, appendix G) from the widths of letters,
which are matplotlib's: it has the Computer Modern fonts that MathJax has. A formula with a command
that is not known here says nothing, and comes as it did before.
"""

from __future__ import annotations

import functools
import html
import itertools
import re
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser
from matplotlib.textpath import TextPath

INLINE = re.compile(r'<span class="(math[^"]*)">\\\((.*?)\\\)</span>', re.S)
TOKEN = re.compile(r"\\text\{[^}]*\}|\\[A-Za-z]+|\\.|\S")  # a text keeps its spaces
EX = 0.442  # of an em; MathJax makes its x as high as that of the words
SIZE = 1000.0  # of the letters that are measured
SCRIPT, SMALLEST = 0.7071, 0.5
SCRIPT_SPACE, BAR_SPACE, SURD, TALL_SURD = 0.05, 0.44, 0.853, 1.0

# The space in eighteenths of an em between two atoms, by their classes. Brackets: not in scripts.
ORDER = ("ord", "op", "bin", "rel", "open", "close", "punct", "inner")
SPACES: dict[str, tuple[int | tuple[int], ...]] = {
    "ord": (0, 3, (4,), (5,), 0, 0, 0, (3,)),
    "op": (3, 3, 0, (5,), 0, 0, 0, (3,)),
    "bin": ((4,), (4,), 0, 0, (4,), 0, 0, (4,)),
    "rel": ((5,), (5,), 0, 0, (5,), 0, 0, (5,)),
    "open": (0, 0, 0, 0, 0, 0, 0, 0),
    "close": (0, 3, (4,), (5,), 0, 0, 0, (3,)),
    "punct": ((3,), (3,), 0, (3,), (3,), (3,), (3,), (3,)),
    "inner": ((3,), 3, (4,), (5,), (3,), 0, (3,), (3,)),
}
CLASSES = {
    "bin": r"+ - * \cdot \pm \times \odot \circ",
    "rel": r"= < > : \le \ge \leq \geq \ne \neq \approx \sim \to \leftarrow \in \propto \mid \ll",
    "open": r"( [ \{ \langle \lvert \lVert",
    "close": r") ] \} \rangle \rvert \rVert !",
    "punct": ", ;",
    "inner": r"\dots \cdots \ldots",
    "op": r"\sum \prod \int",
}
CLASS = {token: name for name, tokens in CLASSES.items() for token in tokens.split()}
GAPS = {r"\,": 3 / 18, r"\:": 4 / 18, r"\;": 5 / 18, r"\ ": 0.25, r"\quad": 1.0, r"\!": -3 / 18}
NAMES = r"\log \exp \sin \cos \tanh \ln \min \max \inf \sup \det \arg \dim"
FUNCTIONS = set(NAMES.split())
ACCENTS = {r"\bar", r"\hat", r"\tilde", r"\overline", r"\vec"}
FONTS = {r"\mathcal", r"\mathrm", r"\mathbf", r"\text", r"\mathbb"}
# In ems: signs around which matplotlib has spaces of its own, or that it calls otherwise.
WIDTHS = {
    0.278: r", ; : . ! | \cdot \lvert \rvert \mid",
    0.5: r"\lVert \rVert \| * \circ",
    0.556: r"\int",
    0.667: r"\in",
    0.68: r"\partial",
    0.778: r"= < > + - \le \ge \leq \geq \ne \neq \approx \sim \propto \pm \times \odot"
    r" \square \top",
    0.944: r"\prod",
    1.0: r"\to \leftarrow \ll",
    1.056: r"\sum",
    1.172: r"\dots \cdots \ldots",
}
WIDTH = {sign: wide for wide, signs in WIDTHS.items() for sign in signs.split()} | {" ": 0.25}
BLACKBOARD = {"E": 0.667, "R": 0.722, "N": 0.722}


class Atom(NamedTuple):
    """A part of a formula.

    Args:
        kind: its class.
        width: in ems.
        over: how much of the width is the slant of its last letter, below which an index moves.
    """

    kind: str
    width: float
    over: float = 0.0


class UnknownCommand(Exception):
    """A command that stands in no table here."""


def with_widths(page: str) -> str:
    """A page whose formulas in lines say how wide they are."""

    def placed(match: re.Match[str]) -> str:
        wide = width(html.unescape(match[2]))
        style = "" if wide is None else f' style="--width: {wide:.2f}ex"'
        return f'<span class="{match[1]}"{style}>\\({match[2]}\\)</span>'

    return INLINE.sub(placed, page)


@functools.cache
def width(tex: str) -> float | None:
    r"""How wide a formula is, in heights of an x, or None if a command in it is not known.

    >>> round(width(r"x + 1"), 1), width(r"\unheard")
    (5.2, None)
    """
    try:
        return Formula(TOKEN.findall(tex)).line(1.0) / EX
    except (UnknownCommand, IndexError):
        return None


class Formula:
    """Reads the tokens of a formula once, from left to right, and adds up.

    Args:
        tokens: commands and letters.
    """

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens[::-1]

    def next(self) -> str:
        return self.tokens[-1] if self.tokens else ""

    def line(self, size: float) -> float:
        """The width of all up to the end or the next closing brace.

        Args:
            size: of the letters, in ems of the formula.
        """
        atoms: list[Atom] = []
        gaps = 0.0
        while self.tokens and self.next() != "}":
            if self.next() in GAPS:
                gaps += GAPS[self.tokens.pop()] * size
            else:
                atoms.append(self.with_scripts(size))
        return sum(atom.width for atom in atoms) + gaps + spaces(atoms, size)

    def with_scripts(self, size: float) -> Atom:
        """An atom, with what is above and below it."""
        base = self.atom(size) if self.next() not in ("^", "_") else Atom("ord", 0.0)
        above = below = 0.0
        smaller = max(size * SCRIPT, SMALLEST)
        while self.next() in ("^", "_", "'"):
            mark = self.tokens.pop()
            if mark == "'":
                above += letter(r"\prime") * smaller
            elif mark == "^":
                above += self.argument(smaller)
            else:
                below += self.argument(smaller)
        if not above and not below:
            return base
        if above and base.over:
            above += 0.05 * (size + base.over)  # MathJax's own, where the letter leans over
        scripts = max(above, below - base.over) if above else below - base.over
        return Atom(base.kind, base.width + scripts + SCRIPT_SPACE * size)

    def atom(self, size: float) -> Atom:
        token = self.tokens.pop()
        if token == "{":
            self.tokens.append(token)
            return Atom("ord", self.argument(size))
        if token in (r"\frac", r"\tfrac", r"\dfrac"):
            smaller = size if token == r"\dfrac" else max(size * SCRIPT, SMALLEST)
            parts = self.argument(smaller), self.argument(smaller)
            return Atom("ord", max(parts) + BAR_SPACE * size)
        if token == r"\sqrt":
            surd = TALL_SURD if self.next() == "{" else SURD
            return Atom("ord", self.argument(size) + surd * size)
        if token in ACCENTS:
            return Atom("ord", self.argument(size))
        if token.startswith(r"\text{"):
            return Atom("ord", sum(map(roman, token[6:-1])) * size)
        if token in (r"\operatorname", *FONTS):
            kind = "op" if token == r"\operatorname" else "ord"
            return Atom(kind, sum(letter(name, token) for name in self.letters()) * size)
        if token in FUNCTIONS:
            return Atom("op", sum(map(roman, token[1:])) * size)
        if token == r"\bmod":
            return Atom("bin", sum(map(roman, "mod")) * size)
        if token in (r"\big", r"\Big"):
            return Atom(CLASS.get(self.next(), "ord"), letter(self.tokens.pop()) * 1.18 * size)
        upright = letter(token)
        slant = max(0.0, ink(token) - upright) if token not in CLASS else 0.0
        return Atom(CLASS.get(token, "ord"), (upright + slant) * size, slant * size)

    def argument(self, size: float) -> float:
        """The width of a token, or of what stands in braces."""
        if self.next() != "{":
            return self.atom(size).width
        self.tokens.pop()
        wide = self.line(size)
        self.tokens.pop()
        return wide

    def letters(self) -> list[str]:
        """The tokens of an argument."""
        if self.next() != "{":
            return [self.tokens.pop()]
        self.tokens.pop()
        names = []
        while self.next() != "}":
            names.append(self.tokens.pop())
        self.tokens.pop()
        return names


def spaces(atoms: list[Atom], size: float) -> float:
    """What stands between the atoms of a line."""
    kinds = [atom.kind for atom in atoms]
    for place, kind in enumerate(kinds):
        before = kinds[place - 1] if place else "open"
        after = kinds[place + 1] if place + 1 < len(kinds) else "close"
        alone = before in ("bin", "op", "rel", "open", "punct") or after in (
            "rel",
            "close",
            "punct",
        )
        if kind == "bin" and alone:  # the minus of -x
            kinds[place] = "ord"
    total = 0.0
    for left, right in itertools.pairwise(kinds):
        space = SPACES[left][ORDER.index(right)]
        if not isinstance(space, tuple):
            total += space / 18
        elif size == 1:
            total += space[0] / 18
    return total * size


def roman(name: str) -> float:
    return letter(name, r"\mathrm")


@functools.cache
def letter(name: str, font: str = "") -> float:
    """How far the next letter stands from this one, in ems."""
    if font == r"\mathbb":
        return BLACKBOARD.get(name, 0.7)
    if name in WIDTH:
        return WIDTH[name]
    font = r"\mathrm" if font in (r"\operatorname", r"\text") else font
    try:
        with rc_context({"mathtext.fontset": "cm"}):
            box = parser().parse(f"${font}{{{name}}}$", 72, FontProperties(size=SIZE))
    except ValueError as error:
        raise UnknownCommand(name) from error
    return float(box.width) / SIZE


@functools.cache
def ink(name: str) -> float:
    """How far a letter reaches to the right, in ems."""
    if name in WIDTH:
        return WIDTH[name]
    with rc_context({"mathtext.fontset": "cm"}):
        return float(TextPath((0, 0), f"${name}$", size=SIZE).get_extents().x1) / SIZE


@functools.cache
def parser() -> MathTextParser:
    return MathTextParser("path")
