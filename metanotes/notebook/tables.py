"""Tables that a notebook shows, in the page as in JupyterLab."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

WORDS = "7.5rem"  # some two words in a line


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


def grouped_table(
    head: Sequence[str], groups: Mapping[str, Sequence[Sequence[str]]], words: int
) -> HtmlTable:
    """A long table in groups, each under a line of its own, whose first columns hold words.

    Args:
        head: the names of the columns.
        groups: by the line above them, lines as in `html_table`.
        words: so many columns at the left are kept wide enough to read, also where the page is
            narrow and the table scrolls.

    Raises:
        ValueError: a line has more or fewer texts than there are columns.

    >>> table = grouped_table(["method", "cost"], {"where to start": [["MAML", "8.4"]]}, words=1)
    >>> '<th colspan="2">where to start</th>' in table
    True
    """
    table: str = html_table(head, [line for lines in groups.values() for line in lines])
    rows = iter(table.partition("<tbody>\n")[2].removesuffix("\n</tbody>\n</table>").split("\n"))
    body = []
    for name, lines in groups.items():
        body.append(f'<tr><th colspan="{len(head)}">{html.escape(name)}</th></tr>')
        for _ in lines:
            texts = next(rows)
            body.append(texts.replace("<td>", f'<td style="min-width: {WORDS}">', words))
    before = table.partition("<tbody>\n")[0]
    return HtmlTable(f"{before}<tbody>\n" + "\n".join(body) + "\n</tbody>\n</table>")
