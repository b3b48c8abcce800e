"""What a published site has beside its pages, and what the forms for machines say.

A small book is built twice, with an address and without; the book itself, without one, is asked by
the tests that are marked `site`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from xml.etree import ElementTree

import card
import numpy as np
import pages
import publishing
import pytest
import yaml
from bs4 import BeautifulSoup
from matplotlib.image import imread
from sphinx.application import Sphinx

import metanotes

ROOT = Path(__file__).resolve().parent.parent.parent
SITE = Path(os.environ.get("METANOTES_SITE", ROOT / "_build" / "html"))
ADDRESS = "https://example.org/a-book"
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

CONF = """
project, html_title = "metanotes", "Learning to learn"
extensions = ["myst_nb", "sphinx_external_toc", "publishing"]
external_toc_path, html_theme, nb_execution_mode = "_toc.yml", "sphinx_book_theme", "off"
myst_enable_extensions = ["dollarmath"]
html_theme_options = {"repository_url": "https://github.com/metanotes/metanotes"}
html_static_path = ["_static"]
"""
FRONT = """# Front & centre

```{note}
A note does not describe its page.
```

With $x$ in it, no sentence describes a page.

The first sentence "says" it & more. The second has $y$. The third is not reached.
"""
OTHER = """---
myst:
  html_meta:
    description: The author's own words.
---
# Other

Not these words.
"""
NOTEBOOK = {
    "cells": [
        {"cell_type": "markdown", "metadata": {}, "source": "# A chapter\n\nSome $z$."},
        {
            "cell_type": "code",
            "execution_count": None,
            "metadata": {},
            "outputs": [],
            "source": "print(1)",
        },
    ],
    "metadata": {"kernelspec": {"name": "python3", "display_name": "P", "language": "python"}},
    "nbformat": 4,
    "nbformat_minor": 4,
}
TOC = """
format: jb-book
root: front
parts:
- caption: Reading
  chapters:
  - file: deep/other
    sections:
    - file: deep/chapter
"""


def build(folder: Path, address: str) -> Path:
    """The small book at an address."""
    source = folder / "source"
    (source / "deep").mkdir(parents=True)
    (source / "_static").mkdir()
    (source / "conf.py").write_text(CONF)
    (source / "_toc.yml").write_text(TOC)
    (source / "front.md").write_text(FRONT)
    (source / "deep" / "other.md").write_text(OTHER)
    (source / "deep" / "chapter.ipynb").write_text(json.dumps(NOTEBOOK))
    shutil.copy(ROOT / "README.md", source)
    places = [str(ROOT), str(ROOT / "book" / "_ext")]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "SITE_ADDRESS": address}
    command = [sys.executable, "-m", "sphinx", "-q", "-D", "exclude_patterns=README.md"]
    command += [str(source), str(folder / "html")]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("public"), ADDRESS + "/")


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("offline"), "")


def head(site: Path, name: str) -> BeautifulSoup:
    return BeautifulSoup((site / name).read_text(encoding="utf-8"), "html.parser")


def meta(site: Path, name: str) -> dict[str, str]:
    """The names and properties in a page's head."""
    top = (site / name).read_text(encoding="utf-8").partition("</head>")[0]  # pages are long
    tags = BeautifulSoup(top, "html.parser").find_all("meta")
    named = {str(t.get("name") or t.get("property")): str(t.get("content")) for t in tags}
    assert len([t for t in tags if t.get("name") == "description"]) == 1
    return named


def test_a_page_is_described_by_its_first_plain_sentences_or_its_author(offline: Path) -> None:
    assert meta(offline, "front.html")["description"] == "The first sentence “says” it & more."
    assert meta(offline, "deep/other.html")["description"] == "The author's own words."
    assert "executable book" in meta(offline, "deep/chapter.html")["description"]
    assert "executable book" in meta(offline, "search.html")["description"]


def test_without_an_address_a_site_names_none(offline: Path) -> None:
    for name in pages.all_pages(offline):
        text = (offline / name).read_text(encoding="utf-8")
        assert "canonical" not in text
        assert "og:" not in text
    for name in ("404.html", "sitemap.xml", "llms.txt", "llms-full.txt"):
        assert not (offline / name).exists()


def test_with_one_a_page_says_where_it_belongs_and_what_is_shown_of_a_link(public: Path) -> None:
    place = f"{ADDRESS}/deep/other.html"
    canonical = head(public, "deep/other.html").find("link", rel="canonical")
    assert canonical
    assert canonical["href"] == place
    named = meta(public, "deep/other.html")
    assert named["og:url"] == place
    assert named["og:title"] == "Other"
    assert named["og:description"] == named["description"] == "The author's own words."
    assert named["og:site_name"] == "Learning to learn"
    assert named["og:image"] == f"{ADDRESS}/_static/card.png"
    assert meta(public, "front.html")["og:title"] == "Front & centre"


def test_the_map_of_the_site_has_every_page_and_nothing_else(public: Path) -> None:
    root = ElementTree.parse(public / "sitemap.xml").getroot()
    assert root.tag == "{http://www.sitemaps.org/schemas/sitemap/0.9}urlset"
    places = ["".join(url.itertext()).strip() for url in root]
    assert places == [f"{ADDRESS}/{n}.html" for n in ("deep/chapter", "deep/other", "front")]


def test_a_wrong_address_shows_a_page_whose_links_hold_in_any_folder(public: Path) -> None:
    page = head(public, "404.html")
    assert page.find("link", rel="canonical") is None
    assert "This page is not here" in [heading.get_text() for heading in page.find_all("h1")]
    links = [str(t.get("href") or t.get("src")) for t in page.find_all(["a", "link", "script"])]
    own = [link for link in links if link != "None" and not link.startswith("#")]
    assert f"{ADDRESS}/search.html" in own
    assert f"{ADDRESS}/front.html" in own
    assert [link for link in own if not re.match("https?://", link)] == []
    assert page.html["data-content_root"] == f"{ADDRESS}/"  # type: ignore[index]
    for link in own:
        if link.startswith(ADDRESS):
            assert (public / link.removeprefix(f"{ADDRESS}/").split("?")[0]).exists()


def test_llms_txt_names_every_page_under_its_heading(public: Path) -> None:
    text = (public / "llms.txt").read_text(encoding="utf-8")
    assert text.startswith("# Learning to learn\n\n> ")
    order = [
        "learner = MAML(",  # the example of the readme
        f"- [Front & centre]({ADDRESS}/front.html): The first sentence",
        f"({ADDRESS}/llms-full.txt)",
        "(https://github.com/metanotes/metanotes)",
        "## Reading",
        f"- [Other]({ADDRESS}/deep/other.html): The author's own words.",
        f"- [A chapter]({ADDRESS}/deep/chapter.html): ",
    ]
    places = [text.index(words) for words in order]
    assert places == sorted(places)


def test_the_full_text_has_words_and_code_in_the_order_of_the_book(public: Path) -> None:
    text = (public / "llms-full.txt").read_text(encoding="utf-8")
    order = ["# Front & centre", "# Other", "# A chapter\n\nSome $z$.", "```python\nprint(1)\n```"]
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert '"cells"' not in text


@pytest.mark.parametrize("address", ["example.org/book", "/book", "https://"])
def test_half_an_address_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("SITE_ADDRESS", address)
    config = SimpleNamespace(html_theme_options={})
    with pytest.raises(ValueError, match="a whole address is needed"):
        publishing.configure(cast(Sphinx, None), config)


def test_another_address_makes_another_build(tmp_path: Path) -> None:
    """What `make` compares: the address that a site was built for."""

    def answer(built_for: str, asked: str) -> bool:
        (tmp_path / "_build" / "html").mkdir(parents=True, exist_ok=True)
        (tmp_path / "_build" / "html" / ".built").write_text(built_for + "\n")
        command = ["make", "-n", "-f", str(ROOT / "Makefile"), f"SITE_ADDRESS={asked}"]
        command += ["_build/html/.built", "ENV=", "VENDOR=", "PAGES="]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return "jupyter-book build" in done.stdout

    assert not answer("", "")
    assert not answer(ADDRESS, ADDRESS)
    assert answer("", ADDRESS)
    assert answer(ADDRESS, "")


# --------------------------------------------------------------------------- forms for machines


def workflow(name: str) -> dict[str, Any]:
    path = ROOT / ".github" / "workflows" / name
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


WORKFLOWS = sorted(path.name for path in (ROOT / ".github" / "workflows").iterdir())


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in workflow(name)["jobs"].values() for step in job["steps"]]


def test_the_workflow_runs_the_parts_of_make_test() -> None:
    parts = re.search(r"^PARTS := (.*)", MAKEFILE, re.M)
    assert parts
    job = workflow("tests.yml")["jobs"]["test"]
    assert job["strategy"]["matrix"]["part"] == parts[1].split()
    assert job["steps"][-1]["run"] == "make ${{ matrix.part }}"


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_calls_what_there_is(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))
    for step in steps(name):
        assert ("run" in step) != ("uses" in step)
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
        else:
            made = re.fullmatch(r"make (\S+|\$\{\{ matrix\.part \}\})( [A-Z_]+=.*)?", step["run"])
            assert made, step
            assert made[1] in {*targets, "${{ matrix.part }}"}
    text = (ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8")
    assert not re.search(r"index-url|https?://|pypi|npmjs", text)
    # A job that writes nothing may write nothing.
    assert workflow(name)["permissions"]["contents"] == "read"


def test_the_site_is_published_from_where_it_is_built_at_its_address() -> None:
    build_steps = workflow("site.yml")["jobs"]["build"]["steps"]
    uses = [step.get("uses", step.get("run", "")).split("@")[0] for step in build_steps]
    assert uses[2:] == [
        "actions/configure-pages",
        'make book SITE_ADDRESS="${{ steps.pages.outputs.base_url }}"',
        "actions/upload-pages-artifact",
    ]
    assert build_steps[2]["id"] == "pages"
    assert build_steps[-1]["with"]["path"] == "_build/html"
    publish = workflow("site.yml")["jobs"]["publish"]
    assert publish["needs"] == "build"
    assert publish["environment"]["name"] == "github-pages"
    assert {"pages", "id-token"} <= workflow("site.yml")["permissions"].keys()


def test_the_version_has_one_source_and_those_who_repeat_it_agree() -> None:
    version = metanotes.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == version
    assert version in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f'"{version}"' not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_citation_has_what_its_format_asks_for() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] in ("software", "dataset")
    assert all({"name"} <= author.keys() for author in citation["authors"])
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert citation["repository-code"] == config["repository"]["url"]


def test_the_changelog_is_kept_in_the_usual_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, re.M)
    assert headings[0] == "[Unreleased]"
    for heading in headings[1:]:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}", heading)
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.M)) <= kinds


def test_the_card_and_the_favicon_are_what_their_tool_draws(tmp_path: Path) -> None:
    assert (card.STATIC / "favicon.svg").read_text(encoding="utf-8") == card.favicon()
    card.card().savefig(tmp_path / "card.png", facecolor=card.PAPER)
    stored, drawn = imread(card.STATIC / "card.png"), imread(tmp_path / "card.png")
    assert stored.shape == (630, 1200, 4)
    assert np.abs(stored - drawn).max() < 0.02


# ------------------------------------------------------------------------------ the book itself


@pytest.mark.site
def test_every_page_of_the_book_is_described_in_plain_words() -> None:
    for name in pages.all_pages(SITE):
        if name != "index.html":
            words = meta(SITE, name)["description"]
            assert 20 <= len(words) <= 300, (name, words)
            assert not re.search(r"\\\w|\$|\{\w|`|\0", words), (name, words)


@pytest.mark.site
def test_the_foot_of_a_page_has_the_version() -> None:
    foot = head(SITE, "book/preface.html").find("footer", class_="bd-footer-content")
    foot = foot or head(SITE, "book/preface.html").find("footer")
    assert f"Version {metanotes.__version__}" in foot.get_text()  # type: ignore[union-attr]


@pytest.mark.site
def test_another_book_can_link_to_this_one() -> None:
    lines = (SITE / "objects.inv").read_bytes().split(b"\n", 4)
    assert lines[1:3] == [b"# Project: metanotes", f"# Version: {metanotes.__version__}".encode()]
    names = zlib.decompress(lines[4]).decode()
    assert "metanotes.methods.initialization.maml.MAML py:class" in names
    assert "maml-first-order std:label" in names


@pytest.mark.site
def test_the_favicon_is_the_mark() -> None:
    link = head(SITE, "book/preface.html").find("link", rel="icon")
    assert link
    drawn = (SITE / "book" / str(link["href"])).read_text(encoding="utf-8")
    assert drawn == card.favicon()
