"""What axe-core says of an open page: WCAG 2.2 at levels A and AA, and good practice.

The rules come with the package `axe-playwright-python`, so that nothing is fetched. What the theme
itself does wrong is listed here by name, and nothing else is let pass.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

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

# rule -> what the element's HTML holds
THEME: dict[str, tuple[str, ...]] = {
    # The field and the colours are named otherwise than they are written.
    "label-content-name-mismatch": ("search-button", "theme-switch-button"),
    # The logo and the buttons above an article stand in no landmark.
    "region": ("navbar-brand", "skip-link", "header-article"),
}


@cache
def script() -> str:
    return (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


def violations(visit: Visit) -> list[str]:
    """Each violation that is not the theme's: the rule, and the element."""
    visit.page.evaluate(f"() => {{ {script()} }}")
    found: dict[str, Any] = visit.page.evaluate(
        "([without, options]) => axe.run({ exclude: without }, options)", [WITHOUT, OPTIONS]
    )
    return [
        f"axe: {rule['id']}: {node['html'][:160]}"
        for rule in found["violations"]
        for node in rule["nodes"]
        if not any(part in node["html"] for part in THEME.get(rule["id"], ()))
    ]
