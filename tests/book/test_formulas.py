r"""Formulas say how wide they will be; MathJax, in a browser, is who is right."""

import json
import os
from pathlib import Path

import formulas
import pages
import pytest
from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parent.parent.parent
SITE = Path(os.environ.get("METANOTES_SITE", ROOT / "_build" / "html"))


def ems(tex: str) -> float:
    wide = formulas.width(tex)
    assert wide is not None
    return wide * formulas.EX


def test_spaces_are_those_of_tex() -> None:
    x, one, plus, equals = ems("x"), 0.5, 0.778, 0.778
    assert ems("x + 1") == pytest.approx(x + plus + one + 8 / 18, abs=0.01)
    assert ems("x = 1") == pytest.approx(x + equals + one + 10 / 18, abs=0.01)
    assert ems("-x") == pytest.approx(plus + x, abs=0.01)
    assert ems("x = -1") == pytest.approx(x + equals + plus + one + 10 / 18, abs=0.01)
    assert ems("(x, x)") == pytest.approx(ems("(x") + ems("x)") + 0.278 + 3 / 18, abs=0.01)
    assert ems(r"x\,x") == pytest.approx(2 * x + 3 / 18, abs=0.01)


def test_what_is_raised_or_lowered_is_smaller_and_has_no_spaces() -> None:
    x = ems("x")
    assert ems("x_1") == pytest.approx(x + 0.5 * 0.7071 + 0.05, abs=0.01)
    assert ems("x_{1 + 1}") == pytest.approx(x + (1.0 + 0.778) * 0.7071 + 0.05, abs=0.01)
    assert ems("x^{111}_1") == pytest.approx(ems("x^{111}"))
    assert ems("x_{1_1}") < ems("x_{11}")
    assert ems(r"\frac1{11}") == ems(r"\tfrac{11}{1}") < ems(r"\dfrac{11}{1}")


def test_words_and_letters() -> None:
    assert ems(r"\log x") == pytest.approx(ems(r"\log") + 3 / 18 + ems("x"), abs=0.01)
    assert ems(r"\log(x)") == pytest.approx(ems(r"\log") + ems("(x)"), abs=0.01)
    assert ems(r"\text{a b}") == pytest.approx(ems(r"\text{ab}") + 0.25, abs=0.01)
    assert ems(r"\hat x") == ems("x")
    assert ems(r"\sqrt x") > ems("x") + 0.8


@pytest.mark.parametrize("tex", [r"\unheard x", "x^", r"\frac1"])
def test_what_is_not_understood_says_nothing(tex: str) -> None:
    assert formulas.width(tex) is None
    page = f'<p><span class="math">\\({tex}\\)</span></p>'
    assert formulas.with_widths(page) == page


def test_a_formula_of_a_page_says_its_width() -> None:
    page = r'<p><span class="math notranslate">\(x &lt; 1\)</span> <span class="math">\[x\]</span>'
    wide = formulas.width("x < 1")
    placed = page.replace('notranslate"', f'notranslate" style="--width: {wide:.2f}ex"')
    assert formulas.with_widths(page) == placed


MEASURE = """() => [...document.querySelectorAll('article span.math[style]')]
  .filter(e => e.getClientRects().length).map(e => {
    const place = document.createElement('span');
    place.style.cssText = e.style.cssText + ';display: inline-block; width: var(--width)';
    e.after(place);
    const said = place.getBoundingClientRect().width;
    place.remove();
    const wide = e.querySelector('mjx-container').getBoundingClientRect().width;
    return [e.textContent, said, wide];
  })"""


@pytest.mark.site
@pytest.mark.parametrize("chapter", ["03_maml", "15_hypergradients", "18_two_domains"])
def test_mathjax_takes_the_width_that_was_said(window: Browser, chapter: str) -> None:
    reader = pages.Reader(window, SITE.as_uri(), pages.DESKTOP, "light")
    try:
        rows = reader.open(f"notebooks/{chapter}.html").page.evaluate(MEASURE)
    finally:
        reader.close()
    assert len(rows) > 80
    off = sorted(abs(said - wide) for _, said, wide in rows)
    assert off[len(off) // 2] < 1, "in pixels"
    assert off[int(0.95 * len(off))] < 5, json.dumps(rows, ensure_ascii=False)


@pytest.mark.site
def test_every_formula_in_a_line_has_a_width() -> None:
    bare = {
        (name, tag.text)
        for name in pages.all_pages(SITE)
        for tag in pages._soup(SITE / name).select("article span.math")
        if not tag.has_attr("style")
    }
    assert bare == set()


@pytest.mark.site
def test_without_mathjax_the_tex_is_shown(window: Browser) -> None:
    reader = pages.Reader(window, SITE.as_uri(), pages.DESKTOP, "light")
    try:
        page = reader.context.new_page()
        page.route("**/tex-chtml-full.js*", lambda route: route.abort())
        page.goto(f"{SITE.as_uri()}/notebooks/03_maml.html")
        assert page.locator("article span.math").first.is_visible()
    finally:
        reader.close()
