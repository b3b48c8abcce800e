"""A browser for the tests of the built website."""

from collections.abc import Iterator

import pages
import pytest
from playwright.sync_api import Browser, sync_playwright


@pytest.fixture(scope="session")
def window() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = pages.launch(playwright)
        yield browser
        browser.close()
