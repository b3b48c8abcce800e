"""Every public name explains itself, with an example that runs (as a doctest, with the tests)."""

import importlib
import inspect
from collections import Counter
from pathlib import Path

import api_pages
import pytest

BOOK = Path(__file__).resolve().parent.parent.parent / "book"

PUBLIC = {
    f"{api_pages.home(thing)}.{name}": thing
    for place in (*api_pages.packages(), *api_pages.frame())
    for name, thing in api_pages.public(place).items()
}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_an_example(name: str) -> None:
    assert ">>> " in (inspect.getdoc(PUBLIC[name]) or ""), f"{name} has no example"


def test_every_public_name_is_documented_once() -> None:
    sources = api_pages.pages(BOOK)
    documented = Counter(name for source in sources for name in api_pages.documented(source))
    assert set(documented) == set(PUBLIC)
    assert max(documented.values()) == 1


def test_every_api_page_is_in_the_table_of_contents() -> None:
    contents = (BOOK.parent / "_toc.yml").read_text(encoding="utf-8").split()
    listed = [entry for entry in contents if entry.startswith("book/api/")]
    assert sorted(listed) == sorted(f"book/api/{path.stem}" for path in (BOOK / "api").glob("*.md"))


def test_every_room_says_what_it_is() -> None:
    for place in (*api_pages.packages(), *api_pages.frame()):
        assert importlib.import_module(place).__doc__, f"{place} has no docstring"
