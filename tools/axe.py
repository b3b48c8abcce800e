"""What axe-core says of an open page: WCAG 2.2 at levels A and AA, and good practice.

The rules come with the package `axe-playwright-python`, so that nothing is fetched. What the theme
itself does wrong is listed here by name, and nothing else is let pass.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from pages import Visit

OPTIONS = {
    "runOnly": {
        "type": "tag",
        "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    },
    "rules": {"label-content-name-mismatch": {"enabled": True}},
    "resultTypes": ["violations"],
}
# Formulas are MathJax's, with a name of their own; there are thousands of parts in them.
WITHOUT = [["mjx-container"]]

# rule -> where in the page the theme does it
THEME = {
    # The field and the button are named otherwise than they are written.
    "label-content-name-mismatch": ".search-button, .search-button__button, .theme-switch-button",
    # The logo and the buttons above an article stand in no landmark.
    "region": ".navbar-brand, .skip-link, .bd-header-article, .bd-sidebar-primary",
    # Wide tables scroll, and cannot be reached by the keyboard.
    "scrollable-region-focusable": ".pst-scrollable-table-container, .cell_output table",
    # The arrows that open a part of the contents have no name.
    "summary-name": ".bd-sidebar-primary, nav.bd-links",
}
# Contrast is what takes axe its time. It is asked about three of those that look alike, in what
# looks alike up to the page itself; on the page of the results that is a cell in a hundred.
ALIKE = 3
RUN = """async ([without, options, theme, alike]) => {
  const looks = new Map(), count = new Map(), of = new Map();
  for (const e of document.querySelectorAll('*')) {
    const s = getComputedStyle(e);
    const text = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    const look = [of.get(e.parentElement), e.tagName, s.color, s.backgroundColor, s.backgroundImage,
      s.opacity, s.fontSize, s.fontWeight, s.position, s.visibility, text].join('|');
    if (!looks.has(look)) looks.set(look, looks.size);
    of.set(e, looks.get(look));
    count.set(look, (count.get(look) || 0) + 1);
    if (count.get(look) <= alike) e.dataset.looks = '';
  }
  axe.configure({ rules: [{ id: 'color-contrast', selector: '[data-looks]' }] });
  const { violations } = await axe.run({ exclude: without }, options);
  return violations.flatMap(({ id, nodes }) => nodes
    .filter(({ target }) => !(id in theme && document.querySelector(target[0])?.closest(theme[id])))
    .map(({ html, target }) => `axe: ${id}: ${html.slice(0, 120)} (${target[0]})`));
}"""


@cache
def script() -> str:
    return (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


def violations(visit: Visit) -> list[str]:
    """Each violation that is not the theme's: the rule, and the element."""
    visit.page.evaluate(f"() => {{ {script()} }}")
    found: list[str] = visit.page.evaluate(RUN, [WITHOUT, OPTIONS, THEME, ALIKE])
    return found
