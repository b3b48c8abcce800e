"""The built website in a real browser, with the network cut off. `make site-tests` builds it first.

Each check is made on every page, and then on a page that was broken on purpose: a check that lets
a broken page pass is a defect of the check.
"""

import functools
import http.server
import json
import os
import re
import shutil
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import api_pages
import axe
import pages
import pytest
from playwright.sync_api import Browser

from metanotes.notebook import score_text

pytestmark = pytest.mark.site

ROOT = Path(__file__).resolve().parent.parent.parent
SITE = Path(os.environ.get("METANOTES_SITE", ROOT / "_build" / "html"))
PAGES = pages.all_pages(SITE) if SITE.exists() else []
ARTICLES = [name for name in PAGES if name.startswith(("book/", "notebooks/"))]
CHAPTERS = [name for name in PAGES if name.startswith("notebooks/")]

# For what takes some seconds a page, or hangs on its kind alone.
OF_EVERY_KIND = [
    "book/home.html",
    "book/draw.html",
    "book/sine.html",
    "book/how_to_use.html",
    "book/results.html",
    "book/glossary.html",
    "book/api/engine.html",
    "notebooks/03_maml.html",
    "notebooks/19_adversarial_moment_matching.html",
    "notebooks/30_self_supervision.html",
    "_modules/metanotes/training.html",
]

# The listings of the package's source are of one kind: in a browser the three longest will do.
LISTINGS = sorted(
    (name for name in PAGES if name.startswith("_modules/")),
    key=lambda name: (SITE / name).stat().st_size,
)
OPENED = [
    name
    for name in PAGES
    if name in OF_EVERY_KIND or (name not in LISTINGS[:-3] and name != "index.html")
]

every_page = pytest.mark.parametrize("name", [n for n in PAGES if n != "index.html"])
every_opened_page = pytest.mark.parametrize("name", OPENED)
every_article = pytest.mark.parametrize("name", ARTICLES)
every_chapter = pytest.mark.parametrize("name", CHAPTERS)


@pytest.fixture(scope="session")
def local_address() -> Iterator[str]:
    """The site on a local server."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def reader_fixture(size: dict[str, int], theme: str) -> object:
    @pytest.fixture(scope="session")
    def make(window: Browser) -> Iterator[pages.Reader]:
        reader = pages.Reader(window, SITE.as_uri(), size, theme)
        yield reader
        reader.close()

    return make


light = reader_fixture(pages.DESKTOP, "light")
dark = reader_fixture(pages.PHONE, "dark")


@pytest.fixture(scope="session")
def served(window: Browser, local_address: str) -> Iterator[pages.Reader]:
    reader = pages.Reader(window, local_address, pages.DESKTOP, "light")
    yield reader
    reader.close()


def test_the_site_is_built() -> None:
    assert PAGES, f"no site in {SITE}: run `make book`"
    sources = {f"notebooks/{path.stem}.html" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert sources <= set(PAGES), "a notebook is not in _toc.yml"


def widgets(name: str) -> int:
    """How many widgets the notebook of a chapter shows."""
    text = (ROOT / name).with_suffix(".ipynb").read_text(encoding="utf-8")
    return text.count('"application/vnd.jupyter.widget-view+json"')


@every_opened_page
def test_page(light: pages.Reader, name: str) -> None:
    """One visit, many questions, so that a page is loaded once: wide, then narrow, then dark."""
    visit = light.open(name)
    try:
        assert visit.errors == []
        assert visit.outside == [], "asked for something outside"
        assert visit.page.title()
        assert visit.page.locator("h1").count() >= 1 or not name.startswith(("book/", "notebooks/"))
        assert pages.mathematics(visit) == []
        assert pages.pictures(visit) == []
        assert pages.copy_buttons(visit) == []
        assert pages.contrast(visit) == []
        assert pages.names_of_controls(visit) == []
        if name in CHAPTERS:
            figures = visit.page.locator(pages.FIGURE).count()
            assert figures == widgets(name) >= 1, "nothing to touch"
        assert pages.interaction(visit) == []
        assert visit.errors == []
        if name in OF_EVERY_KIND:  # asks for the style sheets again, which a disk refuses
            assert axe.violations(visit) == []
        visit.page.set_viewport_size(pages.PHONE)
        visit.page.wait_for_timeout(150)
        assert pages.overflow(visit) == []
        assert pages.interaction(visit) == [], "on a phone"
        pages.darken(visit)
        assert pages.contrast(visit) == [], "in dark"
    finally:
        visit.page.close()


AXE_IN_DARK_TOO = ["book/home.html", "book/glossary.html"]


@pytest.mark.parametrize("name", OF_EVERY_KIND)
def test_page_in_dark_on_a_phone(dark: pages.Reader, name: str) -> None:
    visit = dark.open(name)
    try:
        assert visit.errors == []
        assert visit.page.locator("html").get_attribute("data-theme") == "dark"
        assert pages.contrast(visit) == []
        assert pages.overflow(visit) == []
        if name in AXE_IN_DARK_TOO:
            assert axe.violations(visit) == []
        assert pages.interaction(visit) == []
    finally:
        visit.page.close()


@pytest.mark.parametrize("name", OF_EVERY_KIND)
def test_page_from_a_server(served: pages.Reader, name: str) -> None:
    visit = served.open(name)
    try:
        assert visit.errors == []
        assert visit.outside == []
    finally:
        visit.page.close()


@every_page
def test_links_lead_somewhere(name: str) -> None:
    assert pages.links(SITE, name) == []


# The progress line of the search is emptied when all results are shown.
SEARCHED = """() => {
  const status = document.querySelector('#search-results p.search-summary');
  return status && /(finished|found|did not match)/i.test(status.textContent);
}"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("episode", "book/glossary"),
        ("second order", "book/questions"),
        ("batch normalisation leak", "book/questions"),
        ("how many test tasks", "book/questions"),
        ("solutions", "book/questions"),
        ("own images", "book/questions"),
        ("offline", "book/questions"),
        ("running statistics", "book/questions"),
        ("TensorBoard", "book/questions"),
        ("transformer", "book/questions"),
        ("record=True", "book/questions"),
        ("tied weights", "book/questions"),
        ("my pretrained ResNet", "book/questions"),
        ("log to TensorBoard", "book/questions"),
        ("keep the adapted model", "book/questions"),
        ("L2 in the inner loop", "book/questions"),
        ("scaled dot product attention", "book/questions"),
        ("METANOTES_DATA", "book/how_to_use"),
        ("支撑集", "book/glossary"),
        ("meta_train", "book/api"),
        ("Finn", "book/bibliography"),
    ],
)
def test_search_finds(light: pages.Reader, words: str, expected: str) -> None:
    visit = light.open(f"search.html?q={quote(words)}")
    try:
        visit.page.wait_for_function(SEARCHED)
        found = visit.page.eval_on_selector_all(
            "#search-results ul.search li a", "all => all.map(a => a.getAttribute('href'))"
        )
        assert any(href and expected in href for href in found), found
        assert visit.errors == []
    finally:
        visit.page.close()


def test_search_finds_nothing_where_there_is_nothing(light: pages.Reader) -> None:
    visit = light.open("search.html?q=zxqvwj")
    try:
        visit.page.wait_for_function(SEARCHED)
        assert visit.page.locator("#search-results ul.search li").count() == 0
    finally:
        visit.page.close()


def test_search_opens_from_the_keyboard(light: pages.Reader) -> None:
    visit = light.open("book/preface.html")
    try:
        visit.page.keyboard.press("Control+k")
        field = visit.page.locator("input[type=search]:visible").first
        field.fill("episode")
        with visit.page.expect_navigation():
            field.press("Enter")
        visit.page.wait_for_selector("#search-results ul.search li a")
    finally:
        visit.page.close()


def test_the_theme_can_be_switched(light: pages.Reader) -> None:
    visit = light.open("book/preface.html")
    try:
        root = visit.page.locator("html")
        seen = {root.get_attribute("data-theme")}
        for _ in range(3):
            visit.page.locator("button.theme-switch-button:visible").first.click()
            seen.add(root.get_attribute("data-theme"))
        assert seen == {"light", "dark"}
    finally:
        visit.page.close()


@every_chapter
def test_a_chapter_can_be_run_elsewhere(name: str) -> None:
    config = (ROOT / "_config.yml").read_text(encoding="utf-8")
    repository = re.search(r"^repository:\n\s+url: (\S+)", config, re.M)
    assert repository
    place = repository[1].removeprefix("https://github.com/")
    source = name.replace(".html", ".ipynb")
    hrefs = [str(tag["href"]) for tag in pages._soup(SITE / name).find_all("a", href=True)]
    assert any("colab" in h and f"{place}/blob/main/{source}" in h for h in hrefs)
    assert any("binder" in h and place in h and source in h for h in hrefs)
    assert any(h.endswith("how_to_use.html#run-locally") for h in hrefs)
    assert any(h.endswith(Path(source).name) and "_sources" in h for h in hrefs), "no download"


def test_own_pages_open_in_the_same_window() -> None:
    for name in ARTICLES:
        for tag in pages._soup(SITE / name).find_all("a", target="_blank"):
            assert re.match(r"\w+:", str(tag["href"])), f"{name}: {tag}"


def test_the_button_of_the_notebook_gives_the_notebook(
    light: pages.Reader, served: pages.Reader
) -> None:
    """A download from a server; from a disk, where that is not allowed, the folder it lies in."""
    for reader in (served, light):
        visit = reader.open(CHAPTERS[0])
        try:
            notebook = (ROOT / CHAPTERS[0]).with_suffix(".ipynb")
            visit.page.locator(".dropdown-download-buttons > button").click()
            link = visit.page.locator("a[download]")
            if reader is served:
                with visit.page.expect_download() as download:
                    link.click()
                assert Path(download.value.path()).read_bytes() == notebook.read_bytes()
            else:
                link.click()
                visit.page.get_by_text(notebook.name, exact=True).wait_for()
                assert "/_sources/notebooks/" in visit.page.url
            assert visit.errors == []
        finally:
            visit.page.close()


@every_article
def test_a_page_can_be_edited(name: str) -> None:
    hrefs = [str(tag["href"]) for tag in pages._soup(SITE / name).find_all("a", href=True)]
    assert any(f"/edit/main/{name.removesuffix('.html')}" in href for href in hrefs)


def test_the_copy_button_copies(served: pages.Reader) -> None:
    visit = served.open("book/how_to_use.html")
    try:
        block = visit.page.locator("article .highlight").filter(has_text="make lab").first
        block.hover()
        block.locator("button.copybtn").click()
        copied = visit.page.evaluate("() => navigator.clipboard.readText()")
        assert "make lab" in copied
        assert copied.strip() == block.locator("pre").inner_text().strip()
    finally:
        visit.page.close()


def test_the_front_door_leads_to_the_first_page(light: pages.Reader) -> None:
    page = light.context.new_page()
    try:
        page.goto(f"{light.base}/index.html")
        page.wait_for_url("**/book/home.html")
        assert "meta-learning" in page.locator("article h1").inner_text()
    finally:
        page.close()


def test_the_results_page_shows_every_record(light: pages.Reader) -> None:
    visit = light.open("book/results.html")
    try:
        text = visit.page.locator("article").inner_text().replace("\xa0", " ")
        curves = visit.page.locator("article img").count()
    finally:
        visit.page.close()
    records = [json.loads(p.read_text(encoding="utf-8")) for p in (ROOT / "results").glob("*.json")]
    for record in records:
        assert record["title"] in text
        assert record["command"] in text
        for row in record["rows"]:
            assert row["name"] in text
            assert row.get("setting", "") in text
            assert score_text(row).replace("\xa0", " ").split(" ± ")[0] in text
    assert curves == sum(any("curve" in run for run in record["runs"]) for record in records)


def test_the_reference_has_every_public_name() -> None:
    ids = {
        anchor for path in (SITE / "book" / "api").glob("*.html") for anchor in pages._anchors(path)
    }
    for place in (*api_pages.packages(), *api_pages.frame()):
        for name, thing in api_pages.public(place).items():
            assert f"{api_pages.home(thing)}.{name}" in ids


# What each check must find on a page broken on purpose.
PLACE = "<!-- broken here -->"
BREAKS = {
    "an error in the console": "<script>console.error('broken')</script>",
    "an exception": "<script>nowhere.x = 1</script>",
    "a script from outside": '<script src="https://example.org/x.js"></script>',
    "a formula that is not rendered": "<p>the loss \\(l^n\\) and $\\theta$</p>",
    "a wrong formula": '<div class="math notranslate">\\[ \\frac{1 \\]</div>',
    "markup that shows": "<p>see {cite:t}`finn2017maml` there</p>",
    "a picture without words": '<p><img src="../_static/one_idea.svg"></p>',
    "a missing picture": '<p><img alt="a picture" src="nowhere.png"></p>',
    "a broken link": '<p><a href="nowhere.html">there</a></p>',
    "a broken anchor": '<p><a href="glossary.html#nowhere">there</a></p>',
    "a wide block": '<div style="width: 900px">wide</div>',
    "text that is pale in the dark": '<p style="color: #303030">dark</p>',
    "pale text": '<p style="color: #ccc; background: #fff">pale</p>',
    "a pale link in a tinted box": '<div style="background: rgba(68, 138, 255, 0.1)">'
    '<p><a href="#" style="color: #176de8">there</a></p></div>',
    "a nameless button": "<p><button></button></p>",
    "a heading left out": "<h4>deep</h4>",
    "an empty heading of a table": "<table><tr><th></th><th>b</th></tr><tr><td>1</td></tr></table>",
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("broken") / "html"
    shutil.copytree(SITE, root)
    return root


def complaints(window: Browser, root: Path, name: str) -> Generator[str, None, None]:
    """One after another: of a broken page the first is enough."""
    pages._soup.cache_clear()
    pages._anchors.cache_clear()
    yield from pages.links(root, name)
    for size in (pages.DESKTOP, pages.PHONE):
        reader = pages.Reader(window, root.as_uri(), size, "light")
        try:
            visit = reader.open(name)
            yield from visit.errors + visit.outside
            for check in (
                pages.mathematics,
                pages.pictures,
                pages.contrast,
                pages.names_of_controls,
                pages.copy_buttons,
                pages.overflow,
                axe.violations,
            ):
                yield from check(visit)
            pages.darken(visit)
            yield from pages.contrast(visit)
        finally:
            reader.close()


@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_page_is_found(window: Browser, broken: Path, what: str) -> None:
    path = broken / "book" / "preface.html"
    whole = path.read_text(encoding="utf-8")
    harmed, count = re.subn(r'(<h1>[^<]*<a class="headerlink")', rf"{PLACE}\1", whole)
    assert count == 1
    path.write_text(harmed.replace(PLACE, BREAKS[what]), encoding="utf-8")
    try:
        with closing(complaints(window, broken, "book/preface.html")) as found:
            assert any(found)
    finally:
        path.write_text(whole, encoding="utf-8")


def test_the_page_before_it_was_broken_is_good(window: Browser, broken: Path) -> None:
    assert list(complaints(window, broken, "book/preface.html")) == []


@pytest.mark.parametrize(
    "missing", ["vendor/mathjax/tex-chtml-full.js", "vendor/mathjax/output", "panels.js"]
)
def test_a_missing_script_is_found(window: Browser, broken: Path, missing: str) -> None:
    path = broken / "_static" / missing
    aside = path.with_name(path.name + ".aside")
    path.rename(aside)
    try:
        reader = pages.Reader(window, broken.as_uri(), pages.DESKTOP, "light")
        visit = reader.open(CHAPTERS[0])
        found = visit.errors + pages.mathematics(visit)
        reader.close()
        assert found
    finally:
        aside.rename(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("panels.js", "from-disk.js"),  # the controls move nothing
        ('type="range"', 'type="hidden"'),  # no control
        ('class="panel shown', 'class="panel'),  # blank
    ],
)
def test_a_dead_figure_is_found(window: Browser, broken: Path, old: str, new: str) -> None:
    name = next(n for n in CHAPTERS if 'type="range"' in (SITE / n).read_text(encoding="utf-8"))
    path = broken / name
    whole = path.read_text(encoding="utf-8")
    assert old in whole
    path.write_text(whole.replace(old, new), encoding="utf-8")
    try:
        reader = pages.Reader(window, broken.as_uri(), pages.DESKTOP, "light")
        visit = reader.open(name)
        found = visit.errors + pages.interaction(visit)
        reader.close()
        assert found
    finally:
        path.write_text(whole, encoding="utf-8")
