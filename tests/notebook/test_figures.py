"""Figures to touch: what a page without a kernel needs is in them, and nothing else."""

import re
from collections.abc import Iterator

import pytest

widgets = pytest.importorskip("ipywidgets")
import matplotlib as mpl  # noqa: E402
from ipywidgets.widgets.widget import _instances  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from metanotes.notebook import dropdown, image, notebook_style, slider  # noqa: E402


@pytest.fixture(autouse=True)
def same_settings_after() -> Iterator[None]:
    with mpl.rc_context():
        yield


def line(slope: float) -> Figure:
    figure = Figure(figsize=(3, 2))
    axes = figure.subplots()
    axes.plot([0, 1], [0, slope], label=f"{slope}")
    axes.legend()
    return figure


def links(box: object) -> list[tuple[str, str]]:
    """The links in the browser between parts of a box, as pairs of traits."""
    parts = set()

    def collect(widget: object) -> None:
        parts.add(widget)
        for child in getattr(widget, "children", ()):
            collect(child)

    collect(box)
    found = []
    for widget in list(_instances.values()):
        if isinstance(widget, widgets.widget_link.Link) and widget.source[0] in parts:
            found.append((widget.source[1], widget.target[1]))
    return found


def test_equal_figures_give_equal_bytes_and_different_ones_do_not() -> None:
    assert image(line(1), "a line") == image(line(1), "a line")
    assert image(line(1), "a line") != image(line(2), "a line")
    png = [image(line(slope), "a line", format="png") for slope in (1, 1, 2)]
    assert png[0] == png[1] != png[2]


def test_alternative_text_is_escaped() -> None:
    assert 'alt="a &lt; b &quot;c&quot;"' in image(line(1), 'a < b "c"')


def test_a_figure_of_pyplot_is_closed() -> None:
    import matplotlib.pyplot as plt

    with plt.style.context("default"):
        figure, _ = plt.subplots()
        assert figure.number in plt.get_fignums()
        image(figure, "empty axes")
        assert figure.number not in plt.get_fignums()


@pytest.mark.parametrize("make", [slider, dropdown])
def test_every_panel_is_described_and_linked(make: object) -> None:
    alts = [f"a line of slope {slope}" for slope in (1, 2, 3)]
    box = make([line(s) for s in (1, 2, 3)], [1, 2, 3], description="slope", alt=alts, start=1)
    control, stack = box.children
    assert isinstance(stack, widgets.Stack)
    assert stack.selected_index == control.index == 1
    assert control.options == ("1", "2", "3")
    assert [re.search(r'alt="([^"]*)"', child.value)[1] for child in stack.children] == alts
    assert links(box) == [("index", "selected_index")]


def test_a_play_button_moves_the_slider() -> None:
    box = slider(["a", "b", "c"], [1, 2, 3], description="step", play=True)
    player, control = box.children[0].children
    assert (player.min, player.max) == (0, 2)
    assert control.description == "step"
    assert sorted(links(box)) == [("index", "selected_index"), ("value", "index")]


def test_panels_of_text_may_hold_mathematics() -> None:
    box = dropdown([r"\(\phi\)", r"\(\theta\)"], ["phi", "theta"], description="what")
    assert all(isinstance(child, widgets.HTMLMath) for child in box.children[1].children)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"panels": ["a"], "labels": [1]}, "at least 2"),
        ({"panels": ["a", "b"], "labels": [1]}, "1 labels for 2 panels"),
        ({"panels": ["a", "b"], "labels": [1, 1]}, "same label"),
        ({"panels": ["a", "b"], "labels": [1, 2], "start": 2}, "numbered 0 to 1"),
        ({"panels": ["a", "b"], "labels": [1, 2], "alt": ["x"]}, "1 alternative texts for 2"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        slider(**arguments, description="step")


def test_a_figure_without_alternative_text_is_refused() -> None:
    with pytest.raises(ValueError, match="alt is missing"):
        slider([line(1), line(2)], [1, 2], description="slope")
    with pytest.raises(ValueError, match="alt is empty"):
        image(line(1), " ")
    with pytest.raises(ValueError, match="format is 'gif'"):
        image(line(1), "a line", format="gif")


def test_the_style_makes_figures_repeatable() -> None:
    notebook_style()
    assert mpl.rcParams["svg.hashsalt"] == "metanotes"
    assert mpl.rcParams["savefig.facecolor"] == "white"
