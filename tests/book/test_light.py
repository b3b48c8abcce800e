"""The chapters are light and do not jump; measured in a browser by tools/page_weight.py."""

import functools
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import page_weight
import pages
import pytest
from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.site

ROOT = Path(__file__).resolve().parent.parent.parent
SITE = Path(os.environ.get("METANOTES_SITE", ROOT / "_build" / "html"))
LIMIT = 1_300_000  # bytes
SHIFT = 0.1
# A chapter with many formulas in its first lines, a table of code, and long contents.
JUMPERS = (
    "notebooks/03_maml.html",
    "notebooks/19_adversarial_moment_matching.html",
    "notebooks/appendix_fast_inner_loop.html",
    "book/api/comparison.html",
    "book/corrections.html",
)


def bytes_on_disk(name: str) -> int:
    """Of a page and its pictures."""
    text = (SITE / name).read_text(encoding="utf-8")
    pictures = set(re.findall(r'src="\.\./(_images/[^"]+)"', text))
    return len(text) + sum((SITE / picture).stat().st_size for picture in pictures)


CHAPTERS = [name for name in pages.all_pages(SITE) if name.startswith("notebooks/")]
HEAVIEST = sorted(CHAPTERS, key=bytes_on_disk)[-6:]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with page_weight.server(SITE) as address:
        yield address


def complaints(reading: page_weight.Reading, shift: float = SHIFT) -> list[str]:
    found = []
    if reading.weight > LIMIT:
        found.append(f"weighs {reading.weight / 1e6:.2f} MB")
    if reading.shift > shift:
        found.append(f"shifts by {reading.shift:.2f}")
    return found


@pytest.mark.parametrize("name", HEAVIEST)
def test_a_heavy_chapter_is_light(window: Browser, address: str, name: str) -> None:
    """How far it jumps depends on what arrives first: the tool's table has that of every page."""
    reading = page_weight.read(window, f"{address}/{name}", slowly=False)
    assert complaints(reading, shift=1) == []


@pytest.mark.parametrize("name", JUMPERS)
def test_a_page_does_not_jump(window: Browser, address: str, name: str) -> None:
    assert complaints(page_weight.read(window, f"{address}/{name}")) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_theme_is_there_before_the_scripts(window: Browser, theme: str) -> None:
    """What the theme does later would change colours and borders under the reader's eyes."""
    reader = pages.Reader(window, SITE.as_uri(), pages.DESKTOP, theme)
    try:
        page = reader.context.new_page()
        page.route("**/*.js*", lambda route: route.abort())
        page.goto(f"{SITE.as_uri()}/book/preface.html")
        assert page.locator("html").get_attribute("data-theme") == theme
    finally:
        reader.close()


def test_without_scripts_the_theme_has_colours(plain: Page) -> None:
    plain.goto(f"{SITE.as_uri()}/book/preface.html")
    colour = "e => getComputedStyle(e).getPropertyValue('--pst-color-border')"
    assert plain.locator("html").evaluate(colour) != ""


def test_the_contents_follow_the_reader(window: Browser) -> None:
    """They stand open, longer than the window, and what is being read is in sight."""
    reader = pages.Reader(window, SITE.as_uri(), pages.DESKTOP, "light")
    try:
        page = reader.open("book/corrections.html").page
        page.evaluate("() => scrollTo({ top: 0.9 * document.body.scrollHeight })")
        page.wait_for_timeout(1500)
        entry = page.locator(".bd-sidebar-secondary a.nav-link.active").last.bounding_box()
        assert entry is not None
        assert 0 <= entry["y"] < pages.DESKTOP["height"] - entry["height"]
        assert page.locator(".bd-sidebar-secondary").evaluate("e => e.scrollTop") > 0
    finally:
        reader.close()


HEAVY = '<script src="heavy.js"></script>'
JUMPING = """<script>
addEventListener("load", () => setTimeout(() => {
  const block = document.createElement("div");
  block.style.height = "500px";
  document.querySelector("article").prepend(block);
}, 300));
</script>"""


@pytest.mark.parametrize(("what", "said"), [(HEAVY, "weighs"), (JUMPING, "shifts")])
def test_a_page_made_worse_is_found(window: Browser, tmp_path: Path, what: str, said: str) -> None:
    root = tmp_path / "html"
    shutil.copytree(SITE, root, ignore=shutil.ignore_patterns("_sources", "notebooks", "_modules"))
    path = root / "book" / "preface.html"
    (path.parent / "heavy.js").write_bytes(b"//" + os.urandom(LIMIT).hex().encode())
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace("</body>", f"{what}</body>"), encoding="utf-8")
    with page_weight.server(root) as address:
        found = complaints(page_weight.read(window, f"{address}/book/preface.html", slowly=False))
    assert any(said in words for words in found)


@functools.cache
def html() -> dict[str, str]:
    return {name: (SITE / name).read_text(encoding="utf-8") for name in pages.all_pages(SITE)}


def test_no_script_stands_before_the_words() -> None:
    """Scripts in files wait, and what is only for searching is not loaded elsewhere."""
    for name, text in html().items():
        for tag in pages._soup(SITE / name).find_all("script", src=True):
            assert tag.has_attr("defer") or tag.has_attr("async"), f"{name}: {tag}"
        assert "jupyter.widget-" not in text, name
        assert ("searchindex.js" in text) == (name == "search.html"), name


def test_pictures_say_how_large_they_are() -> None:
    for name in html():
        for tag in pages._soup(SITE / name).select("article img[src*='_images/']"):
            assert tag.get("width"), f"{name}: {tag}"
            assert tag.get("height"), f"{name}: {tag}"


def test_each_icon_is_in_the_font(window: Browser) -> None:
    """An icon that the site's font lacks is drawn as an empty box, or not at all."""
    css = (SITE / "_static" / "styles" / "pydata-sphinx-theme.css").read_text(encoding="utf-8")
    missing = {
        (name, icon)
        for name, text in html().items()
        for icon in icons_of(text)
        if f".fa-{icon}:before" not in css
    }
    assert missing == set()


def icons_of(text: str) -> set[str]:
    import icons

    return icons.names(text) - {"solid", "brands", "regular", "lg", "fw"}
