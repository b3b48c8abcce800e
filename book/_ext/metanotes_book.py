"""What the book adds to Sphinx.

- `{{ results }}`, `{{ api }}` and `{{ repo }}` in a page of book/ become the recorded results, the
  documentation of the package's modules, and the repository's address from _config.yml.
- A "run locally" entry beside the launch buttons of a chapter.
- Scripts from a CDN, said loudly, where tools/vendor.py could not fetch them.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import results_page
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

CDN = {
    "mathjax": "https://cdn.jsdelivr.net/npm/mathjax@3.2.2/es5/tex-chtml-full.js",
    "widgets": "https://cdn.jsdelivr.net/npm/@jupyter-widgets/html-manager@1.0.15/dist/embed.js",
}


def use_cdn_where_not_vendored(app: Sphinx, config: Any) -> None:
    vendor = Path(app.srcdir) / "book" / "_static" / "vendor"
    if not (vendor / "embed.js").exists() or not (vendor / "mathjax").exists():
        print(
            "!" * 78
            + "\nbook/_static/vendor is empty: pages load their scripts from a CDN\n"
            + "!" * 78
        )
        config.mathjax_path = CDN["mathjax"]
        config.nb_ipywidgets_js = {CDN["widgets"]: {}}


def fill_in(app: Sphinx, docname: str, source: list[str]) -> None:
    if not docname.startswith("book/"):
        return
    root = Path(app.srcdir)
    if "{{ results }}" in source[0]:
        for path in sorted((root / "results").glob("*.json")):
            app.env.note_dependency(str(path))
        text = results_page.page(root / "results", root / "book" / "_generated")
        source[0] = source[0].replace("{{ results }}", text)
    if "{{ api }}" in source[0]:
        source[0] = source[0].replace("{{ api }}", api())
    repository = app.config.html_theme_options.get("repository_url", "")
    source[0] = source[0].replace("{{ repo }}", repository)


def api() -> str:
    """One section a module of the package, in the order of the package's folders."""
    import metanotes

    packages, parts = [metanotes.__name__], []
    modules: list[str] = []
    for info in pkgutil.walk_packages(metanotes.__path__, "metanotes."):
        if not info.name.rsplit(".", 1)[-1].startswith("_"):
            (packages if info.ispkg else modules).append(info.name)
    first = ["task", "learner", "inner_loop", "update_rules", "inner_loop_learner"]
    first += ["meta_step", "layers", "training", "evaluation", "nets"]
    rank = {f"metanotes.{name}": place for place, name in enumerate(first)}
    modules.sort(key=lambda name: (rank.get(name, len(first)), name))
    for name in modules:
        lines = [f".. automodule:: {name}", "   :members:", "   :show-inheritance:"]
        label = name.replace(".", "-").replace("_", "-")
        parts.append(
            f"(api-{label})=\n## `{name}`\n\n```{{eval-rst}}\n" + "\n".join(lines) + "\n```\n"
        )
    lists = []
    for package in packages:
        holder = importlib.import_module(package)
        links = []
        for name in getattr(holder, "__all__", []):
            thing = getattr(holder, name)
            if thing.__module__.startswith("metanotes"):
                links.append(f"{{py:obj}}`~{package}.{name}`")
            else:
                links.append(f"`{name}` (`{thing.__module__}.{thing.__name__}`)")
        if links:
            lists.append(f"`from {package} import ...`\n: " + ",\n  ".join(links) + "\n")
    return "\n".join(["## What to import", "", *lists, "", *parts])


def exported_name(app: Sphinx, env: Any, node: Any, contnode: Any) -> Any:
    """Let a page say `metanotes.MAML` for what is documented where it is defined."""
    package, _, name = node.get("reftarget", "").rpartition(".")
    if node.get("refdomain") != "py" or not package.startswith("metanotes"):
        return None
    try:
        thing = getattr(importlib.import_module(package), name)
        target = f"{thing.__module__}.{thing.__qualname__}"
    except (ImportError, AttributeError):
        return None
    if target == node["reftarget"]:
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, contnode)


def without_aliases(
    app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any
) -> bool | None:
    """The fields of a named tuple are described with its arguments."""
    alias = (getattr(thing, "__doc__", None) or "").startswith("Alias for field number")
    return True if alias else None


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


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", use_cdn_where_not_vendored)
    app.connect("source-read", fill_in, priority=100)
    app.connect("autodoc-skip-member", without_aliases)
    app.connect("missing-reference", exported_name)
    app.connect("html-page-context", run_locally, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
