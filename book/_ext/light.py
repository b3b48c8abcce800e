"""What makes the built pages fast and light; it works on the files that Sphinx has written.

- Figures to touch become plain HTML with pictures in files (`panels`).
- Formulas say how wide they will be (`formulas`), and the reader's theme is known from the first.
- Pictures lose what nobody sees, and say how large they are, so that nothing jumps (`pictures`).
- Scripts wait until the page has been read; the search's index is loaded where one searches.
- Of the icons the site has those that it shows (`icons`).
- Links to the site's own pages stay in their window, and a notebook's is a download.

tools/page_weight.py measures what came of it.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import formulas
import icons
import panels
import pictures
from sphinx.application import Sphinx

SCRIPT = re.compile(r"<script\b([^>]*)>(.*?)</script>", re.S)
IMAGE = re.compile(r"<img\b[^>]*>")
# Each page brings the search along, but only the search page searches. And a page in which words
# were marked before MathJax has seen it would lose its mathematics.
SEARCH = ("searchtools.js", "language_data.js", "searchindex.js", "sphinx_highlight.js")
NOWHERE = ("fontawesome.js",)
# What the theme calls "auto" has no colours and no borders: it waits for a script to choose.
AUTO = 'dataset.theme = localStorage.getItem("theme") || "auto";'
CHOSEN = (
    'dataset.theme = { light: "light", dark: "dark" }[localStorage.getItem("mode")] '
    '|| (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");'
)
OWN_LINK = re.compile(r'(<a href="(?!\w+:)([^"]*)") target="_blank"')


def lighten(app: Sphinx, exception: Exception | None) -> None:
    """Rewrite the pages of a finished build."""
    if exception is not None or app.builder.format != "html":
        return
    root = Path(app.outdir)
    for path in (root / "_images").glob("*.*"):
        path.write_bytes(pictures.light(path.read_bytes(), path.suffix[1:]))
    texts = []
    for path in sorted(root.rglob("*.html")):
        if path.relative_to(root).parts[0] in ("_static", "_sources"):
            continue
        text = path.read_text(encoding="utf-8")
        try:
            texts.append(light_page(text, path, root))
        except ValueError as error:
            raise ValueError(f"{path.relative_to(root)}: {error}") from error
        if texts[-1] != text:
            path.write_text(texts[-1], encoding="utf-8")
    if (root / "_static" / "scripts" / "fontawesome.js").exists():
        icons.use_few(root / "_static", texts)
        leave_out(root / "_static")


def light_page(text: str, path: Path, root: Path) -> str:
    """One page, made light.

    Args:
        text: its HTML.
        path: where it lies, in `root`.
        root: the folder of the site, whose _images get the pictures of its panels.
    """
    top = "../" * (len(path.relative_to(root).parts) - 1)

    def save(data: bytes, suffix: str) -> str:
        data = pictures.light(data, suffix)
        name = f"_images/{hashlib.sha256(data).hexdigest()[:32]}.{suffix}"
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(data)
        return top + name

    text = formulas.with_widths(panels.with_panels(text, save))
    text = text.replace(AUTO, CHOSEN).replace(' data-theme="auto"', "", 1)
    text = SCRIPT.sub(lambda m: light_script(m, searches=path == root / "search.html"), text)
    text = OWN_LINK.sub(lambda m: m[1] + (" download" if m[2].endswith(".ipynb") else ""), text)
    first = True

    def measured(match: re.Match[str]) -> str:
        nonlocal first
        tag = with_size(match[0], path)
        if tag != match[0] and not first and "loading=" not in tag:
            tag = tag.replace("<img", '<img loading="lazy"', 1)
        first = first and tag == match[0]
        return tag

    return IMAGE.sub(measured, text)


def light_script(match: re.Match[str], searches: bool) -> str:
    """A script that waits until the page is there, or nothing for one that it does not need."""
    attributes, body = match[1], match[2]
    source = re.search(r'\bsrc="([^"?]*)', attributes)
    name = source[1].rsplit("/", 1)[-1] if source else ""
    if name in NOWHERE or (name in SEARCH and not searches):
        return ""
    if name and not re.search(r"\b(defer|async|type)\b", attributes):
        return f'<script defer="defer"{attributes}></script>'
    if body.startswith("DOCUMENTATION_OPTIONS."):  # a module waits as well, in its turn
        return f'<script type="module">{body}</script>'
    return match[0]


def with_size(tag: str, page: Path) -> str:
    """An `<img>` with its width and height, if it shows a file of the site's _images."""
    source = re.search(r'\bsrc="([^"]*_images/[^"]*)"', tag)
    size = pictures.size(page.parent / source[1]) if source else None
    if size is None or re.search(r"\bheight=", tag):
        return tag
    width, height = size
    said = re.search(r'\bwidth="(\d+)"', tag)
    if said:
        return tag.replace(said[0], f'{said[0]} height="{round(int(said[1]) * height / width)}"')
    return tag.replace("<img", f'<img width="{width}" height="{height}"', 1)


def leave_out(static: Path) -> None:
    """Delete what no page asks for: maps of scripts, the icons' script and their whole fonts."""
    whole = [*static.rglob("*.map"), *(static / "scripts").glob("fontawesome.js")]
    for path in [*whole, *(static / "vendor" / "fontawesome" / "webfonts").glob("*")]:
        path.unlink()


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", lighten, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
