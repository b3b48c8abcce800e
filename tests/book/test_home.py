"""The front page: what stands above the fold, and where its map leads."""

import os
import re
from pathlib import Path

import pages
import pytest
from playwright.sync_api import Browser

pytestmark = pytest.mark.site

ROOT = Path(__file__).resolve().parent.parent.parent
SITE = Path(os.environ.get("METANOTES_SITE", ROOT / "_build" / "html"))

FIRST = ".try-first a", ".door .colab", ".doors :text('make lab')", ".doors :text('pip install')"


@pytest.mark.parametrize("size", [pages.DESKTOP, pages.PHONE], ids=["desktop", "phone"])
def test_what_to_do_stands_above_the_fold(window: Browser, size: dict[str, int]) -> None:
    reader = pages.Reader(window, SITE.as_uri(), size, "light")
    page = reader.open("book/home.html").page
    try:
        for selector in FIRST:
            box = page.locator(selector).first.bounding_box()
            assert box is not None
            assert box["y"] + box["height"] <= size["height"], selector
        first = [page.locator(selector).first.bounding_box() for selector in FIRST]
        assert min(box["y"] for box in first if box) == first[0]["y"], "drawing comes first"  # type: ignore[index]
    finally:
        reader.close()


def test_the_map_leads_to_the_chapters(window: Browser) -> None:
    reader = pages.Reader(window, SITE.as_uri(), pages.PHONE, "light")
    page = reader.open("book/home.html").page
    try:
        families = page.locator(".map-learner li")
        assert families.count() == 12
        for family in families.all():
            hrefs = [link.get_attribute("href") or "" for link in family.locator("a").all()]
            assert all(re.fullmatch(r"\.\./notebooks/\d\d_\w+\.html", href) for href in hrefs)
            assert len(hrefs) >= 2
            box = family.bounding_box()
            assert box is not None
            assert box["width"] > 120
        for words in page.locator(".family-map p").all():
            size = words.evaluate("e => parseFloat(getComputedStyle(e).fontSize)")
            assert size >= 12, "too small for a phone"
    finally:
        reader.close()


def test_the_page_names_the_repository_of_the_configuration() -> None:
    config = (ROOT / "_config.yml").read_text(encoding="utf-8")
    repository = re.search(r"^repository:\n\s+url: https://github.com/(\S+)", config, re.M)
    assert repository
    text = (SITE / "book" / "home.html").read_text(encoding="utf-8")
    assert f"https://colab.research.google.com/github/{repository[1]}/blob/main/notebooks/" in text
    assert f"git clone https://github.com/{repository[1]}" in re.sub(r"<[^>]+>", "", text)
