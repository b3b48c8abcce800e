"""The pages that compute in the browser, used as a reader uses them: mouse, touch and keys.

Over file://, with the network cut off; what they compute is tested in test_play.py.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pages
import pytest
from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.site

ROOT = Path(__file__).resolve().parent.parent.parent
SITE = Path(os.environ.get("METANOTES_SITE", ROOT / "_build" / "html"))
DRAW, SINE = "book/draw.html", "book/sine.html"

# Two shapes that nobody could mistake for each other, on a pad of 100 x 100.
SQUARE = [(25, 25), (75, 25), (75, 75), (25, 75), (25, 25)]
ZIGZAG = [(20, 30), (35, 70), (50, 30), (65, 70), (80, 30)]
ANSWER = "Most like ([A-E]): ([0-9]+) %"


@pytest.fixture(params=["light", "dark on a phone"])
def reader(window: Browser, request: pytest.FixtureRequest) -> Iterator[pages.Reader]:
    phone = request.param != "light"
    size, theme = (pages.PHONE, "dark") if phone else (pages.DESKTOP, "light")
    reader = pages.Reader(window, SITE.as_uri(), size, theme)
    yield reader
    reader.close()


@pytest.fixture
def opened(reader: pages.Reader) -> Iterator[Callable[[str], Page]]:
    """Opens pages, and sees that nothing went wrong and nothing outside was asked for."""
    visits = []

    def open_page(name: str) -> Page:
        visits.append(reader.open(name))
        return visits[-1].page

    yield open_page
    for visit in visits:
        assert visit.errors == []
        assert visit.outside == []
        assert pages.overflow(visit) == []
        assert pages.contrast(visit) == []
        assert pages.names_of_controls(visit) == []
        assert pages.pictures(visit) == []
        visit.page.close()


def by_mouse(page: Page, shape: list[tuple[int, int]]) -> None:
    places = on_the_pad(page, shape)
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=5)
    page.mouse.up()


def by_touch(page: Page, shape: list[tuple[int, int]]) -> None:
    places = on_the_pad(page, shape)
    client = page.context.new_cdp_session(page)

    def send(kind: str, points: list[tuple[float, float]]) -> None:
        touches = [{"x": x, "y": y} for x, y in points]
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

    send("touchStart", places[:1])
    for (x0, y0), (x1, y1) in pairwise(places):
        for part in (0.25, 0.5, 0.75, 1.0):
            send("touchMove", [(x0 + part * (x1 - x0), y0 + part * (y1 - y0))])
    send("touchEnd", [])


def by_keys(page: Page, shape: list[tuple[int, int]]) -> None:
    """The pen starts in the middle and moves by 4; corners are where it can get to."""
    page.locator(".play-pad").focus()
    x, y = 50, 50
    for number, (wanted_x, wanted_y) in enumerate(shape):
        while abs(wanted_x - x) > 2 or abs(wanted_y - y) > 2:  # diagonal lines are stairs
            if abs(wanted_x - x) > 2:
                page.keyboard.press("ArrowRight" if wanted_x > x else "ArrowLeft")
                x += 4 if wanted_x > x else -4
            if abs(wanted_y - y) > 2:
                page.keyboard.press("ArrowDown" if wanted_y > y else "ArrowUp")
                y += 4 if wanted_y > y else -4
        if number in (0, len(shape) - 1):
            page.keyboard.press("Space")


def on_the_pad(page: Page, shape: list[tuple[int, int]]) -> list[tuple[float, float]]:
    pad = page.locator(".play-pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    assert box is not None
    return [
        (box["x"] + x * box["width"] / 100, box["y"] + y * box["height"] / 100) for x, y in shape
    ]


def rest(page: Page) -> None:
    """Wait until the page has learned and said what it has to say."""
    page.locator("[data-playground=draw][aria-busy=false]").wait_for()


def answer(page: Page) -> tuple[str, int]:
    """The class that the status names, and its percentage."""
    rest(page)
    text = page.locator(".play-answer").inner_text()
    match = re.match(ANSWER, text)
    assert match, text
    return match[1], int(match[2])


def losses(page: Page) -> list[float]:
    numbers: list[float] = json.loads(
        page.locator(".play-curve").get_attribute("data-losses") or "[]"
    )
    return numbers


def steps(page: Page, number: int) -> None:
    page.locator("[data-set=steps]").fill(str(number))


@pytest.mark.parametrize("draw", [by_mouse, by_touch, by_keys])
def test_a_drawing_is_told_from_another(opened: Any, draw: Callable[..., None]) -> None:
    page = opened(DRAW)
    for shape in (SQUARE, ZIGZAG):
        draw(page, shape)
        page.locator("[data-do=next]").click()
    page.get_by_role("button", name="the query").click()
    draw(page, [(x * 0.8 + 5, y * 0.7 + 12) for x, y in ZIGZAG])
    assert answer(page)[0] == "B"
    fallen = losses(page)
    assert len(fallen) == 4
    assert fallen[-1] < fallen[0] / 3
    page.locator("[data-set=learner]").select_option("prototypes")
    assert answer(page)[0] == "B"


def test_steps_make_the_difference(opened: Any) -> None:
    """At 0 steps the answer does not depend on what is called A; after 3 it is right."""
    page = opened(DRAW)
    right, asked = 0, 6
    for _ in range(asked):
        page.get_by_role("button", name="Fill with examples").click()
        best, _ = answer(page)
        text = page.locator(".play-answer").inner_text()
        right += f"another drawing of {best}." in text
        after = losses(page)
    assert right >= asked - 1
    steps(page, 0)
    rest(page)
    assert losses(page) == after[:1]
    assert "0 gradient steps" in page.locator(".play-answer").inner_text()
    steps(page, 6)
    rest(page)
    assert losses(page)[:4] == after, "the steps are the same ones"
    page.locator("[data-set=random]").check()
    rest(page)
    assert "from a random start" in page.locator(".play-answer").inner_text()
    assert abs(losses(page)[0] - 1.609) < 0.001  # log 5


def test_strokes_can_be_taken_back(opened: Any) -> None:
    page = opened(DRAW)
    by_mouse(page, SQUARE)
    assert "1 stroke," in (page.locator(".play-pad").get_attribute("aria-label") or "")
    page.get_by_role("button", name="character A, drawing 1, drawn").wait_for()
    page.locator(".play-pad").focus()
    page.keyboard.press("Backspace")
    page.get_by_role("button", name="character A, drawing 1, empty").wait_for()
    page.keyboard.press("Enter")
    assert "character B" in page.locator("#play-now").inner_text()
    rest(page)
    assert "at least two" in page.locator(".play-answer").inner_text()


def lines(page: Page) -> list[str]:
    return [
        page.locator(f"polyline.play-{name}").get_attribute("points") or ""
        for name in ("maml", "joint", "wave")
    ]


def test_the_points_of_a_wave_can_be_moved(opened: Any) -> None:
    page = opened(SINE)
    before = lines(page)
    assert all(before)
    page.locator(".play-steps input").fill("3")
    after = lines(page)
    assert after[0] != before[0]
    assert after[1] != before[1]
    table = page.locator("[data-playground=sine] tbody tr").all_inner_texts()
    maml, joint = ([float(n) for n in re.findall(r"\d+\.\d+", row)] for row in table)
    assert maml[1] < 0.5 * joint[1], "one step from MAML's start is worth more"
    points = page.get_by_role("slider", name="point")
    assert points.count() == 10
    box = points.first.bounding_box()
    assert box is not None
    points.first.scroll_into_view_if_needed()
    box = points.first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 5, box["y"] - 40, steps=4)
    page.mouse.up()
    dragged = lines(page)
    assert dragged[0] != after[0]
    assert dragged[2] == "", "these are no longer points of the wave"
    where = points.first.get_attribute("aria-valuetext")
    points.first.focus()
    page.keyboard.press("ArrowUp")
    assert points.first.get_attribute("aria-valuetext") != where
    assert lines(page)[0] != dragged[0]
    page.locator("[data-do=fewer]").click()
    assert points.count() == 9
    page.locator(".play-answer", has_text="after 3 steps").wait_for()


def test_the_place_is_kept_free_before_the_scripts_have_run(window: Browser) -> None:
    """Nothing below the playground jumps: it is as high without scripts as with them, or higher."""
    for size in (pages.DESKTOP, pages.PHONE):
        heights = []
        for scripts in (False, True):
            context = window.new_context(viewport=size, java_script_enabled=scripts)  # type: ignore[arg-type]
            page = context.new_page()
            for name in (DRAW, SINE):
                page.goto(f"{SITE.as_uri()}/{name}")
                box = page.locator(".play").bounding_box()
                assert box is not None
                heights.append(box["height"])
            context.close()
        assert heights[2:] == pytest.approx(heights[:2], abs=2), size


LIVE = {
    "valleys": "notebooks/03_maml.html",
    "updates": "notebooks/05_reptile.html",
    "ravine": "notebooks/10_gradient_descent.html",
    "game": "notebooks/19_adversarial_moment_matching.html",
}


def test_only_these_pages_load_the_scripts() -> None:
    for path in SITE.glob("*/*.html"):
        scripts = "_static/play/" in path.read_text(encoding="utf-8")
        name = path.relative_to(SITE).as_posix()
        assert scripts == (name in {DRAW, SINE, *LIVE.values()}), name


# --------------------------------------------------------------------- live figures of the chapters


def drawn(page: Page) -> str:
    """The paths of a live figure, as they stand."""
    return page.locator(".play-live .play-paths").inner_html()


@pytest.mark.parametrize("name", LIVE)
def test_the_sliders_of_a_live_figure_move_it(opened: Any, name: str) -> None:
    page = opened(LIVE[name])
    place = page.locator(f"[data-playground={name}]")
    place.scroll_into_view_if_needed()
    for slider in place.locator("input").all():
        before, said = drawn(page), slider.get_attribute("aria-valuetext")
        slider.focus()
        page.keyboard.press("ArrowRight")
        assert drawn(page) != before
        assert slider.get_attribute("aria-valuetext") != said
    before = place.locator(".play-answer").inner_text()
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    place.locator(".play-answer").filter(has_not_text=before or "nothing").wait_for()


@pytest.mark.parametrize("name", ["valleys", "ravine", "game"])
def test_the_start_of_a_live_figure_is_dragged(opened: Any, name: str) -> None:
    page = opened(LIVE[name])
    start = page.locator(".play-live [role=slider]")
    start.scroll_into_view_if_needed()
    box, before, said = start.bounding_box(), drawn(page), start.get_attribute("aria-valuetext")
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 25, y - 15, steps=4)
    page.mouse.up()
    dragged = drawn(page)
    assert dragged != before
    assert start.get_attribute("aria-valuetext") != said
    start.focus()
    page.keyboard.press("ArrowLeft")
    assert drawn(page) != dragged


def test_updates_can_start_anew(opened: Any) -> None:
    page = opened(LIVE["updates"])
    before = drawn(page)
    page.get_by_role("button", name="Another start").click()
    assert drawn(page) != before


@pytest.mark.parametrize("name", LIVE)
def test_the_static_figure_stands_without_scripts_and_on_paper(window: Browser, name: str) -> None:
    for scripts, media in ((False, "screen"), (True, "print"), (True, "screen")):
        context = window.new_context(viewport=pages.DESKTOP, java_script_enabled=scripts)  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(f"{SITE.as_uri()}/{LIVE[name]}")
        page.emulate_media(media=media)  # type: ignore[arg-type]
        live = scripts and media == "screen"
        assert page.locator(f".tag_live-{name} img").is_visible() != live
        assert page.locator(f"[data-playground={name}]").is_visible() == live
        context.close()
