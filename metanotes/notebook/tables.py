"""Tables that a notebook shows, in the page as in JupyterLab."""

from __future__ import annotations

import html
from collections.abc import Sequence


class HtmlTable(str):
    """HTML that a notebook shows as what it is.

    >>> HtmlTable("<table></table>")._repr_html_()
    '<table></table>'
    """

    def _repr_html_(self) -> str:
        return str(self)


def html_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> HtmlTable:
    """A table of texts, for a notebook: show it by naming it at the end of a cell.

    Args:
        head: the names of the columns.
        lines: a text for each column.

    Raises:
        ValueError: a line has more or fewer texts than there are columns.

    >>> "<td>MAML</td>" in html_table(["method", "accuracy"], [["MAML", "96.4 ± 0.4 %"]])
    True
    """
    for line in lines:
        if len(line) != len(head):
            raise ValueError(f"{line} has {len(line)} texts for {len(head)} columns: {head}")

    def cells(kind: str, texts: Sequence[str]) -> str:
        safe = (html.escape(text).replace(" ± ", "&nbsp;±&nbsp;") for text in texts)
        return "<tr>" + "".join(f"<{kind}>{text}</{kind}>" for text in safe) + "</tr>"

    body = "\n".join(cells("td", line) for line in lines)
    return HtmlTable(
        f'<table class="table">\n<thead>{cells("th", head)}</thead>\n<tbody>\n{body}\n</tbody>'
        "\n</table>"
    )
