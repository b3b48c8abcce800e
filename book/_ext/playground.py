"""Pages that compute in the browser.

    ```{playground} draw
    What stands there for a reader without JavaScript, or in another format than HTML.
    ```

puts one in. A chapter has a static figure instead, in a cell with the tag `live-valleys`; a live
one takes its place in the browser. Either way the scripts and the style sheet come on that page
alone. They are classic scripts in book/_static/play, in this order: modules are not loaded from a
folder on a disk. And `{{ drawing ... }}` becomes what was measured of the drawing page, see
tools/play_accuracy.py.
"""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import results_page
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

SCRIPTS = {
    "draw": [
        "packed.js",
        "phi/omniglot_maml.js",
        "phi/omniglot_prototypes.js",
        "net.js",
        "strokes.js",
        "examples.js",
        "draw.js",
    ],
    "sine": [
        "packed.js",
        "phi/sine_maml.js",
        "phi/sine_joint.js",
        "mlp.js",
        "plane.js",
        "sine.js",
    ],
}
LIVE = {
    "valleys": ["plane.js", "valleys.js"],
    "ravine": ["plane.js", "ravine.js"],
    "updates": ["packed.js", "mlp.js", "plane.js", "updates.js"],
    "game": ["plane.js", "game.js"],
}
TAG = "tag_live-"  # MyST-NB makes a class of a cell's tag


class Playground(SphinxDirective):
    """The place that the scripts fill; its content is shown until they do."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        if name not in SCRIPTS:
            raise self.error(f"playground {name!r} must be one of {', '.join(SCRIPTS)}")
        start = nodes.raw(
            "", f'<div class="play play-{name}" data-playground="{name}">', format="html"
        )
        start["playground"] = name
        words = nodes.container()
        self.state.nested_parse(self.content, self.content_offset, words)
        return [start, *words.children, nodes.raw("", "</div>", format="html")]


def add_scripts(
    app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """The scripts of a page's playgrounds and live figures, on that page."""
    if doctree is None:
        return
    scripts = [SCRIPTS[n["playground"]] for n in doctree.findall(nodes.raw) if "playground" in n]
    for cell in doctree.findall(nodes.container):
        names = [c.removeprefix(TAG) for c in cell["classes"] if c.startswith(TAG)]
        scripts += [LIVE[name] for name in names]
    if scripts:
        app.add_css_file("play/play.css")
    for script in dict.fromkeys(name for group in scripts for name in group):
        app.add_js_file(f"play/{script}", loading_method="defer")


def fill_in(app: Sphinx, docname: str, source: list[str]) -> None:
    """What a page says of the drawing page's accuracy and weight."""
    if "{{ drawing " not in source[0]:
        return
    root = Path(app.srcdir)
    path = root / "results" / "play" / "accuracy.json"
    app.env.note_dependency(str(path))
    record = json.loads(path.read_text(encoding="utf-8"))
    words = {
        "protocol": record["protocol"],
        "command": record["command"],
        "accuracy": accuracy_table(record["rows"]),
        "weights": weight(root / "book" / "_static" / "play" / "phi"),
    }
    source[0] = re.sub(r"\{\{ drawing (\w+) \}\}", lambda m: words[m[1]], source[0])


def accuracy_table(rows: list[dict[str, Any]]) -> str:
    """The rows of the record in Markdown."""

    def percent(share: float) -> str:
        return f"{100 * share:.1f}"

    head = [
        "accuracy in %",
        "the page",
        "package, same pictures",
        "package, data set",
        "difference",
    ]
    lines = [
        [
            row["learner"],
            percent(row["page"]),
            percent(row["same pictures"]),
            percent(row["package"]),
            f"{percent(row['difference'])} ± {percent(row['ci95'])}",
        ]
        for row in rows
    ]
    return "\n".join(results_page.table(head, lines))


def weight(folder: Path) -> str:
    """Of the scripts with the weights of the drawing page, as a server sends them."""
    files = [folder / Path(name).name for name in SCRIPTS["draw"] if name.startswith("phi/")]
    return f"{sum(len(gzip.compress(file.read_bytes())) for file in files) / 1000:.0f} kB"


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("playground", Playground)
    app.connect("source-read", fill_in, priority=100)
    app.connect("html-page-context", add_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
