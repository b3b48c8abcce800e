"""What the book adds to Sphinx.

- `{{ results }}`, `{{ repo }}` and `{{ colab }}` in a page of book/ become the recorded results,
  the repository's address from _config.yml and what it is on Colab, the lines `{{ api ... }}` the
  package's documentation.
- A "run locally" entry beside the launch buttons of a chapter.
- MathJax from a CDN, said loudly, where tools/vendor.py could not fetch it.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Generic, get_origin

import api_pages
import results_page
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

CDN = "https://cdn.jsdelivr.net/npm/mathjax@3.2.2/es5/tex-chtml-full.js"


def use_cdn_where_not_vendored(app: Sphinx, config: Any) -> None:
    vendor = Path(app.srcdir) / "book" / "_static" / "vendor"
    if not (vendor / "mathjax").exists():
        bar = "!" * 78
        print(f"{bar}\nbook/_static/vendor is empty: pages load MathJax from a CDN\n{bar}")
        config.mathjax_path = CDN


def fill_in(app: Sphinx, docname: str, source: list[str]) -> None:
    if not docname.startswith("book/"):
        return
    root = Path(app.srcdir)
    if "{{ results }}" in source[0]:
        for path in sorted((root / "results").glob("*.json")):
            app.env.note_dependency(str(path))
        text = results_page.page(root / "results", root / "book" / "_generated")
        source[0] = source[0].replace("{{ results }}", text)
    source[0] = api_pages.filled_in(source[0])
    repository = app.config.html_theme_options.get("repository_url", "")
    colab = repository.replace("//github.com", "//colab.research.google.com/github")
    source[0] = source[0].replace("{{ repo }}", repository)
    source[0] = source[0].replace("{{ colab }}", f"{colab}/blob/main")


def exported_name(app: Sphinx, env: Any, node: Any, contnode: Any) -> Any:
    """Let a page say `metanotes.MAML` for what is documented where it is written.

    A type in a signature that has no documentation of its own, a sampler's class or an alias, is
    plain text; in prose it is a mistake.
    """
    package, _, name = node.get("reftarget", "").rpartition(".")
    if node.get("refdomain") != "py" or not package.startswith("metanotes"):
        return None
    try:
        thing = getattr(importlib.import_module(package), name)
        target = f"{api_pages.home(thing)}.{thing.__qualname__}"
    except (ImportError, AttributeError, StopIteration):
        target = node["reftarget"]
    link = None
    if target != node["reftarget"]:
        domain = env.get_domain("py")
        link = domain.resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, contnode)
    if link is None and in_signature(node):
        return contnode
    return link


def in_signature(node: Any) -> bool:
    """Whether a reference stands in the signature of something documented, not in its text."""
    while node is not None and not isinstance(node, addnodes.desc_content):
        if isinstance(node, addnodes.desc_signature):
            return True
        node = node.parent
    return False


def without_aliases(
    app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any
) -> bool | None:
    """The fields of a named tuple are described with its arguments."""
    alias = (getattr(thing, "__doc__", None) or "").startswith("Alias for field number")
    return True if alias else None


def equations_as_they_stand(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """An indented paragraph of a docstring is an equation: its lines are kept apart."""
    text: list[str] = []
    margin = True  # whether the last line with words began at the margin
    for line in lines:
        indented = line.startswith("    ")
        if indented and margin and text[-1:] != [""]:
            margin = False  # the arguments of a section, such as Args:
        if indented and margin:
            text += [".. code-block:: text", ""]
        if line:
            margin = not line.startswith(" ")
        text.append(line)
    lines[:] = text


def bases_without_variables(
    app: Sphinx, name: str, thing: Any, options: Any, bases: list[Any]
) -> None:
    """`Generic[Drawn]` as `Generic`: a type variable has no page."""
    bases[:] = [Generic if get_origin(base) is Generic else base for base in bases]


def run_locally(
    app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    for group in context.get("header_buttons", []):
        if group.get("label") == "launch-buttons":
            group["buttons"].append(
                {
                    "type": "link",
                    "text": "On your machine",
                    "tooltip": "How to run this chapter on your own machine",
                    "icon": "fas fa-laptop",
                    "url": context["pathto"]("book/how_to_use") + "#run-locally",
                }
            )


def style_of_the_front_page(
    app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    if pagename == app.config.root_doc:
        app.add_css_file("home.css")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", use_cdn_where_not_vendored)
    app.connect("source-read", fill_in, priority=100)
    app.connect("autodoc-skip-member", without_aliases)
    app.connect("autodoc-process-docstring", equations_as_they_stand, priority=400)
    app.connect("autodoc-process-bases", bases_without_variables)
    app.connect("missing-reference", exported_name)
    app.connect("html-page-context", run_locally, priority=900)
    app.connect("html-page-context", style_of_the_front_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
