"""What the site makes of figures: fewer bytes, the same picture; widgets as plain HTML."""

import base64
import doctest
import io
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import icons
import light
import panels
import pictures
import pytest
from matplotlib.figure import Figure
from PIL import Image

from metanotes.notebook import dropdown, slider

widgets = pytest.importorskip("ipywidgets")


@pytest.mark.parametrize("module", [icons, pictures])
def test_the_examples_are_right(module: Any) -> None:
    assert doctest.testmod(module).failed == 0


def drawn(format: str = "svg", slope: float = 1.0) -> bytes:
    figure = Figure(figsize=(3, 2))
    axes = figure.subplots()
    axes.plot([k / 7 for k in range(50)], [slope * (k % 5) ** 0.5 for k in range(50)], label="a")
    axes.imshow([[0, 1], [2, 3]], extent=(1, 2, 1, 2), cmap="gray")
    axes.set(xlim=(0, 7), ylim=(0, 3), xlabel="$x_1$")
    axes.legend()
    out = io.BytesIO()
    figure.savefig(out, format=format)
    return out.getvalue()


def corners(path: str) -> list[tuple[float, float]]:
    """The places that a path of M, L, Q, C and z, absolute or relative, goes through."""
    here = start = (0.0, 0.0)
    found = []
    for command, text in re.findall(r"([MLQCZmlqcz])([^MLQCZmlqcz]*)", path):
        numbers = [float(n) for n in re.findall(r"-?(?:\d+\.?\d*|\.\d+)", text)]
        if command in "Zz":
            here = start
        size = {"M": 2, "L": 2, "Q": 4, "C": 6, "Z": 1}[command.upper()]
        for at in range(0, len(numbers), size):
            base = here if command.islower() else (0.0, 0.0)
            places = [n + base[k % 2] for k, n in enumerate(numbers[at : at + size])]
            found += list(zip(places[::2], places[1::2], strict=True))
            here = found[-1]
            if command in "Mm":
                start = here
    return found


def test_a_path_goes_through_the_same_places() -> None:
    steps = [(0.123456 * k, 100 - 0.01234 * k * k) for k in range(400)]
    path = "M 3.14159 2.71828 " + " ".join(f"\nL {x} {y}" for x, y in steps)
    path += " \nQ 1.25 -3.5 2.111111 4 \nz \nL 7 7.5 \nC 1 2 3 4 5 6.66666 "
    smaller = pictures.light_path(path)
    assert len(smaller) < 0.5 * len(path)
    before, after = corners(path), corners(smaller)
    assert len(before) == len(after) == 407
    for (x, y), (u, v) in zip(before, after, strict=True):
        assert abs(x - u) <= 0.0051  # half of the last digit, however far along the line
        assert abs(y - v) <= 0.0051


def test_a_path_with_other_commands_stays() -> None:
    path = "M 1.23456 2 A 3 4 0 0 1 5 6.78901"
    assert pictures.light_path(path) == path


def test_an_svg_loses_bytes_and_keeps_its_references() -> None:
    data = drawn()
    smaller = pictures.light(data, "svg")
    assert len(smaller) < 0.7 * len(data)
    text = smaller.decode()
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    referred = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    assert referred == set(ids)
    for tag in ("use", "path", "image"):
        assert text.count(f"<{tag}") == data.decode().count(f"<{tag}")
    assert pictures.light(smaller, "svg") == smaller


def test_another_svg_stays_as_it_is() -> None:
    data = b'<svg xmlns="http://www.w3.org/2000/svg"><path d="M 0.12345 1"/></svg>'
    assert pictures.light(data, "svg") == data


def test_a_png_gets_a_palette_and_a_photograph_does_not() -> None:
    data = drawn("png")
    smaller = pictures.light(data, "png")
    assert len(smaller) < 0.7 * len(data)
    assert Image.open(io.BytesIO(smaller)).mode in ("P", "L")
    before, after = (Image.open(io.BytesIO(d)).convert("RGB") for d in (data, smaller))
    assert pictures.is_near(before, after, pictures.ERROR)
    photograph = Image.effect_noise((64, 64), 90).convert("RGB")
    channels = [Image.effect_noise((64, 64), 90) for _ in range(3)]
    photograph = Image.merge("RGB", channels)
    again = Image.open(io.BytesIO(pictures.light(pictures.png(photograph), "png")))
    assert again.mode == "RGB"
    assert again.tobytes() == photograph.tobytes()


@pytest.mark.parametrize("format", ["svg", "png"])
def test_a_picture_says_its_size(tmp_path: Path, format: str) -> None:
    (tmp_path / "_images").mkdir()
    path = tmp_path / "_images" / f"a.{format}"
    path.write_bytes(drawn(format))
    expected = (288, 192) if format == "svg" else (300, 200)  # 3 by 2 inches of 96 or 100
    assert pictures.size(path) == expected
    page = tmp_path / "page.html"
    tag = f'<img alt="a" src="_images/a.{format}" />'
    width, height = expected
    assert f'<img width="{width}" height="{height}" alt' in light.with_size(tag, page)
    narrow = light.with_size(tag.replace("alt", 'width="150" alt', 1), page)
    assert 'width="150" height="100"' in narrow
    assert light.with_size(narrow, page) == narrow


def page_of(box: Any) -> str:
    """A page with a widget, as Sphinx writes it."""
    from ipywidgets.embed import embed_data

    data = embed_data(views=[box])
    state, (view,) = data["manager_state"], data["view_specs"]
    return (
        '<head>\n<script type="application/vnd.jupyter.widget-state+json">'
        f"{json.dumps(state)}</script></head><p>before</p>"
        f'<script type="application/vnd.jupyter.widget-view+json">{json.dumps(view)}</script>'
        "<p>after</p>"
    )


@pytest.fixture
def saved() -> dict[str, bytes]:
    return {}


def save_in(saved: dict[str, bytes]) -> Any:
    def save(data: bytes, suffix: str) -> str:
        name = f"../_images/{len(saved)}.{suffix}"
        saved[name] = data
        return name

    return save


def figures() -> list[Figure]:
    made = [Figure(figsize=(2, 1)) for _ in range(3)]
    for slope, figure in enumerate(made):
        figure.subplots().plot([0, slope])
    return made


ALTS = ['flat, "a" < b', "rising", "steep"]


def test_a_slider_becomes_a_range_with_its_panels(saved: dict[str, bytes]) -> None:
    box = slider(figures(), [0, "1 & 2", 5], description="steps", alt=ALTS, start=1, play=True)
    page = panels.with_panels(page_of(box), save_in(saved))
    assert "jupyter" not in page
    assert "base64" not in page
    assert page.startswith("<head></head><p>before</p>")
    assert page.endswith("<p>after</p>")
    assert '<label for="panels-1">steps</label>' in page
    assert 'type="range" min="0" max="2" step="1" value="1" aria-valuetext="1 &amp; 2"' in page
    assert 'data-interval="700">Play</button>' in page
    shown = re.findall(r'<div class="(panel[^"]*)" data-label="([^"]*)"', page)
    assert [label for _, label in shown] == ["0", "1 &amp; 2", "5"]
    assert ["shown" in name for name, _ in shown] == [False, True, False]
    sources = re.findall(r'<img alt="([^"]+)" width="200".*? src="([^"]+)" loading="lazy"', page)
    assert [alt for alt, _ in sources] == ["flat, &quot;a&quot; &lt; b", "rising", "steep"]
    assert [source for _, source in sources] == list(saved)
    state = json.loads(panels.STATE.findall(page_of(box))[0])["state"]
    stored = re.findall(r"base64,([^\"\\]+)", json.dumps(state))
    assert {base64.b64decode(text) for text in stored} == set(saved.values())
    assert len(set(saved.values())) == 3


def test_a_menu_becomes_a_select(saved: dict[str, bytes]) -> None:
    box = dropdown([r"the loss \(l\)", "<b>b</b>"], ["a", "b"], description="method", start=1)
    page = panels.with_panels(page_of(box), save_in(saved))
    assert '<select id="panels-1" autocomplete="off"><option>a</option>' in page
    assert "<option selected>b</option></select>" in page
    assert r'tex2jax_process" data-label="a">the loss \(l\)</div>' in page
    assert saved == {}


def test_two_figures_have_two_names(saved: dict[str, bytes]) -> None:
    box = dropdown(["x", "y"], ["a", "b"], description="method")
    page = page_of(box)
    view = panels.VIEW.search(page)
    assert view
    both = panels.with_panels(page + view[0], save_in(saved))
    ids = re.findall(r'id="([^"]+)"', both)
    assert ids == ["panels-1", "panels-2"]


def test_a_page_without_widgets_stays_as_it_is(saved: dict[str, bytes]) -> None:
    page = "<p>nothing to touch</p>"
    assert panels.with_panels(page, save_in(saved)) == page


def test_what_is_neither_is_refused(saved: dict[str, bytes]) -> None:
    other = widgets.VBox([widgets.IntText(3), widgets.HTML("a")])
    with pytest.raises(ValueError, match="VBoxModel; the site shows what"):
        panels.with_panels(page_of(other), save_in(saved))
    loose = dropdown(["x", "y"], ["a", "b"], description="method")
    page = page_of(loose).replace('"LinkModel"', '"LinkModel_"')
    with pytest.raises(ValueError, match="its control moves nothing"):
        panels.with_panels(page, save_in(saved))
    stateless = panels.STATE.sub("", page_of(loose))
    with pytest.raises(ValueError, match="has no state in its page"):
        panels.with_panels(stateless, save_in(saved))


def script(text: str, searches: bool = False) -> str:
    return light.SCRIPT.sub(lambda m: light.light_script(m, searches), text)


def test_scripts_wait_in_their_order() -> None:
    head = (
        '<script src="a.js?v=1"></script><script>let b = 1;</script>'
        '<script defer src="c.js"></script><script>DOCUMENTATION_OPTIONS.d = 1;</script>'
    )
    light_head = script(head)
    assert light_head == (
        '<script defer="defer" src="a.js?v=1"></script><script>let b = 1;</script>'
        '<script defer src="c.js"></script>'
        '<script type="module">DOCUMENTATION_OPTIONS.d = 1;</script>'
    )
    assert script(light_head) == light_head
    search = '<script src="../searchindex.js"></script>'
    assert script(search) == ""
    assert (
        script(search, searches=True) == '<script defer="defer" src="../searchindex.js"></script>'
    )


def test_own_links_stay_in_their_window(tmp_path: Path) -> None:
    link = '<a href="{}" target="_blank" class="btn">there</a>'
    page = "".join(
        link.format(h) for h in ("https://a.org/b.html", "c.html#d", "../_sources/e.ipynb")
    )
    made = light.light_page(page, tmp_path / "book" / "page.html", tmp_path)
    assert made.count("_blank") == 1
    assert link.format("https://a.org/b.html") in made
    assert '<a href="../_sources/e.ipynb" download class="btn">' in made


def test_the_numbers_of_a_path_are_told_apart() -> None:
    """`.5-.25` and `1 .5` are two numbers each; a reader of SVG must not join them."""
    values = [0.5, -0.25, 0.004, 12.0, -3.14159]
    text = pictures.joined(values)
    read = [float(n) for n in re.findall(r"-?(?:\d+\.?\d*|\.\d+)", text)]
    assert read == [round(value, 2) for value in values]
    for one, other in pairwise(text.split(" ")):
        assert one
        assert other
