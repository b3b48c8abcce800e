"""One colour a method through the whole book: in its chapters and on the page of its results.

There are more methods than colours that can be told apart. The methods of a family have different
ones; those of two families may share one, and where such two meet, their lines differ in style.
"""

from __future__ import annotations

from collections.abc import Sequence

BLUE, ORANGE, RED, GREEN = "#0072B2", "#E69F00", "#D55E00", "#009E73"
PINK, SKY, GREY = "#CC79A7", "#56B4E9", "#595959"  # Okabe and Ito's: safe for the colour-blind
BLACK = "#000000"
WINE, OLIVE, TEAL, PURPLE, FOREST = "#882255", "#999933", "#44AA99", "#AA4499", "#117733"  # Tol's

STARTS = {
    "random start": GREY,
    "joint pre-training": RED,
    "MAML": BLUE,
    "first-order MAML": ORANGE,
    "Reptile": GREEN,
    "ANIL": PINK,
    "Meta-SGD": SKY,
    "hyper-representation": WINE,
    "MAML without convolutions": OLIVE,
}
COMPARISONS = {
    "prototypical network": FOREST,
    "matching network": TEAL,
    "relation network": OLIVE,
    "Siamese network": PURPLE,
    "nearest neighbour in features": SKY,
    "nearest neighbour in pixels": GREY,
    "classifier": PINK,
    "fine-tuning": RED,
}
READERS = {  # of the whole support set
    "hypernetwork": ORANGE,
    "neural process": RED,
    "in context": GREEN,
    "set network": FOREST,
}
RULES = {
    "learned rule": BLUE,
    "SGD": GREY,
    "momentum": PINK,
    "Nesterov": GREEN,
    "RMSprop": ORANGE,
    "Adam": RED,
    "AdamW": WINE,
}
DOMAINS = {  # what brings a source and a target together
    "source only": GREY,
    "MMD": GREEN,
    "DANN": BLUE,
    "DSN + MMD": ORANGE,
    "DSN + DANN": RED,
    "DSN + DANN, no difference loss": PINK,
    "DSN + DANN, plain MSE": SKY,
    "target only": BLACK,
}
FAMILIES = (STARTS, COMPARISONS, READERS, RULES, DOMAINS)
COLORS = {name: color for family in FAMILIES for name, color in family.items()}


def color_of(method: str) -> str:
    """The colour of a method in every figure of the book.

    Args:
        method: its name, perhaps with more behind it: `"MAML"`, `"MAML, 5 steps"`, `"SGD, rate 2"`,
            `"MAML 5-way 1-shot"`.

    Returns:
        A colour as matplotlib takes it, `"#0072B2"`.

    Raises:
        ValueError: the method has none; says which have.

    >>> color_of("MAML") == color_of("MAML, 5 steps") != color_of("first-order MAML")
    True
    """
    known = _method_in(method)
    if known is None:
        raise ValueError(
            f"method={method!r} has no colour of its own; these have: {', '.join(COLORS)}"
        )
    return COLORS[known]


def looks_of(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour and a style of line for each line of a panel, so that no two look alike.

    A method has its `color_of`; a second line of it gets another style. What is no method gets a
    colour that is left.

    Args:
        labels: of the lines, each once.

    Returns:
        Label -> colour and style.

    >>> looks = looks_of(["MAML, 1 step", "MAML, 5 steps", "source only"])
    >>> [style for _, style in looks.values()], len({color for color, _ in looks.values()})
    (['-', '--', '-'], 2)
    """
    colors = {label: color_of(label) for label in labels if _method_in(label) is not None}
    everything = (BLUE, ORANGE, GREEN, RED, PINK, SKY, WINE, OLIVE, TEAL, PURPLE, FOREST, GREY)
    left = [color for color in everything if color not in colors.values()] or list(everything)
    others = [label for label in labels if label not in colors]
    colors |= {label: left[n % len(left)] for n, label in enumerate(others)}
    lines: dict[str, tuple[str, str]] = {}
    for label in labels:
        before = [color for color, _ in lines.values()].count(colors[label])
        lines[label] = (colors[label], ("-", "--", ":", "-.")[before % 4])
    return lines


def _method_in(label: str) -> str | None:
    """The method that a label begins with, the longest of them."""
    return max(
        (name for name in COLORS if label == name or label.startswith((f"{name},", f"{name} "))),
        key=len,
        default=None,
    )
