"""Figures to touch as plain HTML: a control, and pictures of which it shows one.

A notebook stores what `metanotes.notebook.slider` and `dropdown` return as the state of widgets,
and a page would need half a megabyte of the widgets' script to show it. But all panels are drawn
beforehand, so a page needs only

    <div class="panels">  a range or a menu;  each panel, of which one is `shown`  </div>

and book/_static/panels.js. The pictures become files, which a browser fetches near the figure.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

STATE = re.compile(
    r'\s*<script type="application/vnd\.jupyter\.widget-state\+json">(.*?)</script>', re.S
)
VIEW = re.compile(
    r'<script type="application/vnd\.jupyter\.widget-view\+json">(.*?)</script>', re.S
)
EMBEDDED = re.compile(r'src="data:image/(svg\+xml|png);base64,([^"]+)"')
SHOWN = "the site shows what metanotes.notebook.slider and dropdown return, and nothing else"

Models = dict[str, Any]


def with_panels(page: str, save: Callable[[bytes, str], str]) -> str:
    """A page whose widgets have become panels.

    Args:
        page: its HTML, with the state of its widgets, if it has any.
        save: keeps a picture, given its bytes and its suffix, and says where, seen from the page.

    Raises:
        ValueError: if a widget is another one than `slider` and `dropdown` make, or has no state.
    """
    state = STATE.search(page)
    models: Models = json.loads(state[1])["state"] if state else {}
    numbers = count(1)

    def figure(view: re.Match[str]) -> str:
        name = json.loads(view[1])["model_id"]
        if name not in models:
            raise ValueError(f"widget {name} has no state in its page; run the notebook again")
        return panels(models, name, f"panels-{next(numbers)}", save)

    return VIEW.sub(figure, STATE.sub("", page))


def panels(models: Models, name: str, identity: str, save: Callable[[bytes, str], str]) -> str:
    """The HTML of one figure.

    Args:
        models: the states of all widgets of the page, by their names.
        name: the box that is shown.
        identity: the id of its control, which is the only one of that name in the page.
        save: as in `with_panels`.
    """
    row, stack = parts(models, name)
    if kind(models, row) == "HBoxModel":
        play, control = children(models, row)
        button = play_button(models[play]["state"])
    else:
        control, button = row, ""
    if (control, stack) not in set(linked(models)):
        raise ValueError(f"widget {name}: its control moves nothing; {SHOWN}")
    chosen = models[control]["state"]
    labels = chosen["_options_labels"]
    pictures = children(models, stack)
    if len(labels) != len(pictures):
        raise ValueError(f"widget {name}: {len(labels)} labels for {len(pictures)} panels")
    start = models[stack]["state"]["selected_index"]
    shown = "\n".join(
        panel(models[picture]["state"]["value"], label, number == start, save)
        for number, (picture, label) in enumerate(zip(pictures, labels, strict=True))
    )
    called = html.escape(chosen["description"])
    return (
        f'<div class="panels">\n<div class="panels-control">{button}'
        f'<label for="{identity}">{called}</label>'
        f"{control_element(kind(models, control), labels, start, identity)}</div>\n"
        f'<div class="panels-stack">\n{shown}\n</div>\n</div>'
    )


def parts(models: Models, name: str) -> list[str]:
    """The row of controls and the stack of panels of a box."""
    found = children(models, name) if kind(models, name) == "VBoxModel" else []
    if len(found) != 2 or kind(models, found[1]) != "StackModel":
        raise ValueError(f"widget {name} is a {kind(models, name)}; {SHOWN}")
    return found


def control_element(kind: str, labels: list[str], start: int, identity: str) -> str:
    """The range or the menu that chooses a panel by its number."""
    if kind == "SelectionSliderModel":
        label = html.escape(labels[start])
        return (
            f'<input id="{identity}" type="range" min="0" max="{len(labels) - 1}" step="1" '
            f'value="{start}" aria-valuetext="{label}" autocomplete="off">'
            f'<output for="{identity}">{label}</output>'
        )
    if kind != "DropdownModel":
        raise ValueError(f"a control is a {kind}; {SHOWN}")
    options = "".join(
        f"<option{' selected' if number == start else ''}>{html.escape(label)}</option>"
        for number, label in enumerate(labels)
    )
    return f'<select id="{identity}" autocomplete="off">{options}</select>'


def play_button(state: dict[str, Any]) -> str:
    return (
        f'<button type="button" class="panels-play" data-interval="{state["interval"]}">'
        "Play</button>"
    )


def panel(value: str, label: str, shown: bool, save: Callable[[bytes, str], str]) -> str:
    """One panel: its picture is fetched near the figure, and first if it is the one that shows."""

    def kept(source: re.Match[str]) -> str:
        suffix = "svg" if source[1] == "svg+xml" else "png"
        place = save(base64.b64decode(source[2]), suffix)
        return f'src="{place}" loading="lazy"' + ("" if shown else ' fetchpriority="low"')

    name = "panel shown" if shown else "panel"
    # MathJax leaves out what is not said to be for it.
    return (
        f'<div class="{name} tex2jax_process" data-label="{html.escape(label)}">'
        f"{EMBEDDED.sub(kept, value)}</div>"
    )


def kind(models: Models, name: str) -> str:
    return str(models[name]["model_name"])


def children(models: Models, name: str) -> list[str]:
    return [child.removeprefix("IPY_MODEL_") for child in models[name]["state"]["children"]]


def linked(models: Models) -> Iterator[tuple[str, str]]:
    """The pairs of a control and the stack that its index moves."""
    for model in models.values():
        if model["model_name"] == "LinkModel":
            (source, _), (target, trait) = model["state"]["source"], model["state"]["target"]
            if trait == "selected_index":
                yield source.removeprefix("IPY_MODEL_"), target.removeprefix("IPY_MODEL_")
