"""What a screen reader is told beyond what Sphinx and its themes say.

- Chinese words are marked as such, so that they are read in their language.
- A folded cell is called what it shows ("Show code cell source"), not "Toggle hidden content".
- An empty corner of a table is no heading.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

HAN = r"\u3400-\u9fff\uf900-\ufaff"
CHINESE = re.compile(rf"([{HAN}](?:[{HAN}\u3000-\u303f\uff00-\uffef]*[{HAN}])?)")  # with its commas
EMPTY_HEADING = re.compile(r"<th(?P<class>[^>]*)>\s*(?:<p>\s*</p>)?\s*</th>")
COVERED_LABEL = '<summary aria-label="Toggle hidden content">'


def mark_chinese(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put every run of Chinese into an element whose class docutils writes as an attribute lang."""
    for text in list(doctree.findall(nodes.Text)):
        parts = CHINESE.split(text.astext())
        if len(parts) == 1 or isinstance(text.parent, nodes.literal_block | nodes.raw):
            continue
        marked: list[nodes.Node] = []
        for number, part in enumerate(parts):
            if number % 2:  # what the pattern has caught
                marked.append(nodes.inline(part, part, classes=["language-zh"]))
            elif part:
                marked.append(nodes.Text(part))
        text.parent.replace(text, marked)


def mend_body(
    app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """Folded cells and empty headings, in the page as it was written."""
    if "body" in context:
        body = context["body"].replace(COVERED_LABEL, "<summary>")
        context["body"] = EMPTY_HEADING.sub(r"<td\g<class>></td>", body)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-resolved", mark_chinese)
    app.connect("html-page-context", mend_body)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
