"""Figures to touch that live without a kernel.

A page of the website has no Python behind it, so nothing here calls back: every panel is drawn
beforehand, and a slider or a menu, linked in the browser, chooses which one shows. Panels are
`<img>` elements with alternative text. ipywidgets and matplotlib load on first use.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipywidgets import Widget
    from matplotlib.figure import Figure

    Panel = Figure | str

__all__ = ["dropdown", "image", "notebook_style", "slider"]


def notebook_style() -> None:
    """Set how a chapter draws: sharp vector figures on white, the same bytes at every run.

    Works in any notebook and does nothing outside one but set matplotlib's defaults.

    >>> notebook_style()
    """
    import matplotlib as mpl

    mpl.rcParams.update(
        {
            "axes.grid": True,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "figure.figsize": (6.4, 3.6),
            "font.size": 10,
            "grid.alpha": 0.3,
            "legend.frameon": False,
            "savefig.facecolor": "white",
            "svg.hashsalt": "metanotes",
        }
    )
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return
    if get_ipython() is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg", metadata={"Date": None})


def image(figure: Figure, alt: str, *, format: str = "svg", dpi: int = 120) -> str:
    """Return a drawn figure as an HTML `<img>` that carries its own bytes, and close it.

    Args:
        figure: A matplotlib figure.
        alt: What the picture shows, in a sentence, for a reader who does not see it.
        format: `"svg"` for lines and text, `"png"` where a panel holds many pixels or points.
        dpi: Pixels an inch of a PNG.

    Returns:
        The element. Equal figures give equal bytes.

    Raises:
        ValueError: If `alt` is empty or `format` is neither of the two.

    >>> from matplotlib.figure import Figure
    >>> image(Figure(figsize=(2, 1)), "an empty figure")[:27]
    '<img alt="an empty figure" '
    """
    import matplotlib as mpl
    from matplotlib import _pylab_helpers

    if not alt.strip():
        raise ValueError("alt is empty; say in a sentence what the figure shows")
    if format not in ("svg", "png"):
        raise ValueError(f'format is {format!r}; "svg" and "png" are known')
    stamp = {"Date": None} if format == "svg" else {"Software": None}
    out = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "metanotes"}):
        figure.savefig(out, format=format, dpi=dpi, facecolor="white", metadata=stamp)
    # A figure that pyplot still holds would be shown a second time below the cell.
    for manager in _pylab_helpers.Gcf.get_all_fig_managers():
        if manager.canvas.figure is figure:
            _pylab_helpers.Gcf.destroy(manager)
    kind = "svg+xml" if format == "svg" else "png"
    data = base64.b64encode(out.getvalue()).decode()
    width = round(figure.get_figwidth() * 100)
    return (
        f'<img alt="{html.escape(alt)}" width="{width}" style="max-width:100%;height:auto" '
        f'src="data:image/{kind};base64,{data}">'
    )


def slider(
    panels: Sequence[Panel],
    labels: Sequence[object],
    *,
    description: str,
    alt: Sequence[str] | None = None,
    start: int = 0,
    play: bool = False,
    format: str = "svg",
) -> Widget:
    """Return a slider that shows one of several panels, in a notebook and in the website alike.

    Args:
        panels: Matplotlib figures, or ready HTML, in which LaTeX stands between backslashed
            parentheses.
        labels: What the slider reads at each panel, as many as panels.
        description: The slider's name; short, since it stands before the slider.
        alt: The alternative text of each figure, as many as panels; not needed for HTML.
        start: The panel shown at first, from 0.
        play: Whether to put a play button before the slider.
        format: The figures' format, as in `image`.

    Raises:
        ValueError: If there are fewer than two panels, or not one label and one alt for each.

    >>> box = slider(["one step", "two steps"], [1, 2], description="steps")
    >>> box.children[1].selected_index
    0
    """
    import ipywidgets as widgets

    names, stack = _stack(panels, labels, alt, start, format)
    control = widgets.SelectionSlider(
        options=names,
        index=start,
        description=description,
        continuous_update=True,
        style={"description_width": "initial"},
        layout=widgets.Layout(width="min(100%, 30rem)"),
    )
    widgets.jslink((control, "index"), (stack, "selected_index"))
    row: Widget = control
    if play:
        player = widgets.Play(value=start, min=0, max=len(names) - 1, interval=700)
        widgets.jslink((player, "value"), (control, "index"))
        row = widgets.HBox([player, control], layout=widgets.Layout(flex_flow="row wrap"))
    return widgets.VBox([row, stack])


def dropdown(
    panels: Sequence[Panel],
    labels: Sequence[object],
    *,
    description: str,
    alt: Sequence[str] | None = None,
    start: int = 0,
    format: str = "svg",
) -> Widget:
    """Return a menu that shows one of several panels, in a notebook and in the website alike.

    Args:
        panels: see `slider`, as for the others.
        labels: the entries of the menu, as many as panels.
        description: the menu's name.
        alt: the alternative text of each figure.
        start: the panel shown at first, from 0.
        format: the figures' format, as in `image`.

    Raises:
        ValueError: see `slider`.

    >>> box = dropdown(["a line", "a sine"], ["joint", "MAML"], description="method", start=1)
    >>> box.children[0].value
    'MAML'
    """
    import ipywidgets as widgets

    names, stack = _stack(panels, labels, alt, start, format)
    control = widgets.Dropdown(
        options=names,
        index=start,
        description=description,
        style={"description_width": "initial"},
        layout=widgets.Layout(width="max-content", max_width="100%"),
    )
    widgets.jslink((control, "index"), (stack, "selected_index"))
    return widgets.VBox([control, stack])


def _stack(
    panels: Sequence[Panel],
    labels: Sequence[object],
    alt: Sequence[str] | None,
    start: int,
    format: str,
) -> tuple[list[str], Any]:
    """The labels as text, and the panels as children of a Stack."""
    import ipywidgets as widgets

    if len(panels) < 2:
        raise ValueError(f"there are {len(panels)} panels; a choice needs at least 2")
    if len(labels) != len(panels):
        raise ValueError(f"there are {len(labels)} labels for {len(panels)} panels")
    if alt is not None and len(alt) != len(panels):
        raise ValueError(f"there are {len(alt)} alternative texts for {len(panels)} panels")
    if not 0 <= start < len(panels):
        raise ValueError(f"start is {start}; the panels are numbered 0 to {len(panels) - 1}")
    names = [str(label) for label in labels]
    if len(set(names)) != len(names):
        raise ValueError(f"two panels have the same label: {names}")
    children = []
    for position, panel in enumerate(panels):
        if isinstance(panel, str):
            children.append(widgets.HTMLMath(panel))
        elif alt is None:
            raise ValueError(
                "alt is missing; every figure needs a sentence that says what it shows"
            )
        else:
            children.append(widgets.HTML(image(panel, alt[position], format=format)))
    return names, widgets.Stack(children, selected_index=start)
