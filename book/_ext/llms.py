"""llms.txt: what the book is and where things are, for a program that answers a reader's question.

The format is that of llmstxt.org: a title, what it is about in a quotation, and lists of links,
each with a line. llms-full.txt is the text and the code of all chapters and pages, without outputs.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from sphinx import addnodes

ABOUT = Path(__file__).with_suffix(".md")  # what we say ourselves


def index(env: Any, address: str, places: dict[str, str], about: dict[str, str]) -> str:
    """llms.txt: what the book is, an example, and every page with its first sentences."""
    root = env.config.root_doc
    readme = (Path(env.srcdir) / "README.md").read_text(encoding="utf-8")
    example = re.search(r"^```python\n.*?^```$", readme, re.M | re.S)
    lines = [ABOUT.read_text(encoding="utf-8")]
    if example:
        lines += [example[0], ""]
    lines += ["## Start", "", _line(env, root, places, about)]
    lines += [f"- [All of the book as text]({address}llms-full.txt): its words and its code"]
    repository = env.config.html_theme_options.get("repository_url")
    if repository:
        lines += [f"- [The repository]({repository}): the package, the notebooks and the tests"]
    for toctree in env.get_doctree(root).findall(addnodes.toctree):
        lines += ["", f"## {toctree.get('caption') or 'Pages'}", ""]
        for _, name in toctree["entries"]:
            for page in (name, *env.toctree_includes.get(name, [])):
                if page in places:
                    lines.append(_line(env, page, places, about))
    return "\n".join(lines) + "\n"


def _line(env: Any, name: str, places: dict[str, str], about: dict[str, str]) -> str:
    return f"- [{env.titles[name].astext()}]({places[name]}): {about[name]}"


def full_text(env: Any, places: dict[str, str]) -> str:
    """All pages in their order, in Markdown; of the notebooks, text and code."""
    texts = []
    for name in in_order(env):
        text = markdown(Path(env.doc2path(name)))
        # A page that the build fills in has its words in the package's docstrings, or in records.
        if not re.search(r"^\{\{ (api|results)\b", text, re.M):
            texts.append(f"<!-- {places[name]} -->\n\n{text.strip()}\n")
    return "\n\n".join(texts)


def in_order(env: Any) -> list[str]:
    """The names of all pages, as one reads them."""
    names: list[str] = []

    def walk(name: str) -> None:
        if name not in names:
            names.append(name)
            for below in env.toctree_includes.get(name, []):
                walk(below)

    walk(env.config.root_doc)
    return names


def markdown(path: Path) -> str:
    """The words and the code of a page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    return "\n\n".join(parts)
