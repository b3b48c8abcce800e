"""A browser for the tests of the built website."""

from collections.abc import Iterator

import pages
import pytest
from playwright.sync_api import Browser, Page, sync_playwright


@pytest.fixture(scope="session")
def window() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = pages.launch(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def plain(window: Browser) -> Iterator[Page]:
    """A page without scripts, as the site was written."""
    context = window.new_context(java_script_enabled=False)
    yield context.new_page()
    context.close()
