"""What a published site has beside its pages: descriptions, a card, a map, a page for mistakes.

The address is the variable SITE_ADDRESS, as in `make book SITE_ADDRESS=https://example.org/book`.
Without one the site is for a folder on a disk: it has its descriptions and its version, and names
no address. With one, each page says where it belongs and what is shown of a link to it, and the
site has a sitemap.xml, a 404.html, and an llms.txt with the text of the book in llms-full.txt.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llms
from docutils import nodes
from sphinx.application import Sphinx

import metanotes

DESCRIPTION = (
    "An executable book on meta-learning, and the small PyTorch package that its chapters call: "
    "every equation is checked, and every number is made by the code beside it."
)
CARD = "_static/card.png"  # drawn by tools/card.py
CARD_ALT = "The title of the book beside its mark: an outer loop around an inner one."
LONGEST = 200  # of a description, in characters
DESCRIBED = re.compile(r'<meta (?=[^>]*name="description")[^>]*content="([^"]*)"')

NOT_FOUND = """<section id="not-found">
<h1>This page is not here</h1>
<p>The address may have changed, or be mistyped. The <a href="search.html">search</a> looks through
all pages, and the <a href="{front}">first page</a> says what is in the book.</p>
</section>"""


def configure(app: Sphinx, config: Any) -> None:
    """The address and the version, each from its one place."""
    config.html_baseurl = os.environ.get("SITE_ADDRESS", "").strip().rstrip("/")
    if config.html_baseurl:
        if not re.match(r"https?://[^/]", config.html_baseurl):
            raise ValueError(
                f"SITE_ADDRESS is {config.html_baseurl!r}; a whole address is needed, such as "
                "https://example.org/book, or none at all"
            )
        config.html_baseurl += "/"
    config.version = config.release = metanotes.__version__
    config.html_theme_options["extra_footer"] = f"Version {metanotes.__version__}"


def description(doctree: nodes.document) -> str:
    """The first sentences of a page that need no formula."""
    for paragraph in doctree.findall(nodes.paragraph):
        if isinstance(paragraph.parent, nodes.section):
            text = " ".join(_words(paragraph).split())
            plain = ""
            for sentence in re.split(r"(?<=[.!?])\s+", text):
                if "\0" in sentence or len(plain) + len(sentence) > LONGEST:
                    break
                plain = f"{plain} {sentence}".strip()
            if plain.endswith((".", "!", "?")):
                return plain
    return DESCRIPTION


def _words(node: nodes.Node) -> str:
    """The text of a paragraph, with a mark where a formula or a picture stands."""
    if isinstance(node, nodes.math | nodes.image | nodes.raw):
        return "\0"
    if isinstance(node, nodes.Text):
        return node.astext()
    return "".join(_words(child) for child in node.children)


def describe(
    app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """What the head of a page says of it."""
    tags = context.get("metatags", "")
    authors = DESCRIBED.search(tags)
    if authors:
        words = html.unescape(authors[1])
    else:
        words = description(doctree) if doctree else DESCRIPTION
        tags += f'\n    <meta name="description" content="{html.escape(words)}" />'
    if app.config.html_baseurl and doctree:
        title = html.unescape(re.sub("<[^>]*>", "", context["title"]))
        graph = {
            "og:type": "article",
            "og:site_name": app.config.html_title,
            "og:title": title,
            "og:description": words,
            "og:url": context["pageurl"],
            "og:image": app.config.html_baseurl + CARD,
            "og:image:width": "1200",
            "og:image:height": "630",
            "og:image:alt": CARD_ALT,
        }
        for name, content in graph.items():
            tags += f'\n    <meta property="{name}" content="{html.escape(content)}" />'
        tags += '\n    <meta name="twitter:card" content="summary_large_image" />'
    if pagename == "404":
        context["pageurl"] = None  # it has no place of its own
    context["metatags"] = tags


def page_not_found(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """404.html, which a server such as GitHub's shows for any wrong address."""
    if app.config.html_baseurl:
        body = NOT_FOUND.format(front=app.builder.get_target_uri(app.config.root_doc))
        title = "Page not found"
        yield "404", {"title": title, "pagetitle": title, "body": body}, "page.html"


def finish(app: Sphinx, error: Exception | None) -> None:
    """The files of a published site that are no pages."""
    address = app.config.html_baseurl
    if error or not address:
        return
    out = Path(app.outdir)
    lost = out / "404.html"
    lost.write_text(whole_addresses(lost.read_text(encoding="utf-8"), address), encoding="utf-8")
    places = {name: address + app.builder.get_target_uri(name) for name in app.env.found_docs}
    (out / "sitemap.xml").write_text(sitemap(sorted(places.values())), encoding="utf-8")
    about = {name: described(out / app.builder.get_target_uri(name)) for name in places}
    (out / "llms.txt").write_text(llms.index(app.env, address, places, about), encoding="utf-8")
    (out / "llms-full.txt").write_text(llms.full_text(app.env, places), encoding="utf-8")


def whole_addresses(page: str, address: str) -> str:
    """A page whose own links begin with the site's address, since it is shown in any folder."""
    own = r'\b(href|src|action|data-content_root)="(?![a-z]+:|//|#)(?:\./)?([^"]*)"'
    return re.sub(own, lambda m: f'{m[1]}="{address}{m[2]}"', page)


def sitemap(places: list[str]) -> str:
    """The addresses of all pages, as sitemaps.org asks."""
    lines = [f"  <url><loc>{html.escape(place)}</loc></url>" for place in places]
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="{}">'
    space = "http://www.sitemaps.org/schemas/sitemap/0.9"
    return "\n".join([head.format(space), *lines, "</urlset>\n"])


def described(path: Path) -> str:
    """The description in a written page."""
    found = DESCRIBED.search(path.read_text(encoding="utf-8"))
    return html.unescape(found[1]) if found else ""


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", configure)
    app.connect("html-page-context", describe)
    app.connect("html-collect-pages", page_not_found)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
