"""What a screen reader hears, and what paper shows, beyond what test_site.py asks of every page."""

import os
from pathlib import Path

import pages
import pytest
from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.site

ROOT = Path(__file__).resolve().parent.parent.parent
SITE = Path(os.environ.get("METANOTES_SITE", ROOT / "_build" / "html"))

ARTICLES = [
    name
    for name in (pages.all_pages(SITE) if SITE.exists() else [])
    if name.startswith(("book/", "notebooks/"))
]

every_article = pytest.mark.parametrize("name", ARTICLES)
CHAPTER = "notebooks/03_maml.html"

UNMARKED = """() => {
  const walker = document.createTreeWalker(document.querySelector('article'), NodeFilter.SHOW_TEXT);
  const found = [];
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const above = node.parentElement;
    if (/\\p{Script=Han}/u.test(node.data) && !above.closest('[lang|=zh], script, pre'))
      found.push(node.data.trim().slice(0, 40));
  }
  return found;
}"""


@every_article
def test_chinese_is_marked_as_chinese(name: str, plain: Page) -> None:
    plain.goto(f"{SITE.as_uri()}/{name}")
    assert plain.evaluate(UNMARKED) == []


def test_the_glossary_has_chinese_words(plain: Page) -> None:
    plain.goto(f"{SITE.as_uri()}/book/glossary.html")
    assert plain.locator("dt [lang=zh]").count() > 100


def test_a_folded_cell_is_called_what_it_shows(plain: Page) -> None:
    plain.goto(f"{SITE.as_uri()}/{CHAPTER}")
    folded = plain.locator("details.hide > summary")
    assert folded.count() > 3
    for summary in folded.all():
        assert summary.get_attribute("aria-label") is None
        assert "Show code cell source" in summary.inner_text()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", [CHAPTER, "book/home.html", "book/how_to_use.html"])
def test_paper_shows_everything_and_nothing_to_press(
    window: Browser, name: str, theme: str
) -> None:
    # A sheet of A4 without its margins, at 96 pixels an inch.
    reader = pages.Reader(window, SITE.as_uri(), {"width": 718, "height": 1046}, theme)
    try:
        visit = reader.open(name)
        page = visit.page
        page.emulate_media(media="print")
        for selector in (".bd-header", ".bd-sidebar-primary", "details.hide > summary", ".copybtn"):
            assert not any(e.is_visible() for e in page.locator(selector).all()), selector
        sliders = page.locator("article button, article input")
        assert not any(e.is_visible() for e in sliders.all())
        # A space at the end of a wrapped line of code hangs over, and nobody sees it.
        assert [what for what in pages.overflow(visit) if not what.startswith("SPAN.w:")] == []
        cut = page.evaluate(
            "() => [...document.querySelectorAll('article pre, article table')].filter(e =>"
            " e.scrollWidth > e.clientWidth + 1 && e.checkVisibility()).map(e => e.textContent)"
        )
        assert cut == []
        holes = page.evaluate(
            "() => [...document.querySelectorAll('div.cell, div.cell div, div.highlight')].filter("
            "e => getComputedStyle(e).breakInside !== 'auto' && !e.querySelector('img')"
            ").map(e => e.className)"
        )
        assert holes == []
        assert pages.contrast(visit) == []
        ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert ground in ("rgb(255, 255, 255)", "rgba(0, 0, 0, 0)")
    finally:
        reader.close()
