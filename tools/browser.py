"""Find Chromium for the site tests, or install it. Prints where it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"]
PLACES = [
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
]


def find() -> str | None:
    """The path of a Chromium: on the PATH, in its usual place, or Playwright's own."""
    for name in [os.environ.get("CHROMIUM", ""), *NAMES]:
        if name and (path := shutil.which(name)):
            return path
    for place in PLACES:
        if Path(place).exists():
            return place
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def install() -> str | None:
    """Try the system's package manager, then Playwright's download."""
    tries = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    if shutil.which("apt-get") and os.geteuid() == 0:
        apt = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"]
        tries = [["apt-get", "update", "-qq"], apt, *tries]
    for command in tries:
        print("trying:", " ".join(command), flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL)
        if path := find():
            return path
    return None


if __name__ == "__main__":
    found = find() or install()
    if found is None:
        sys.exit(
            "The site tests need Chromium, and none could be installed.\n"
            "Install it (Debian: apt-get install chromium), or name one: make test CHROMIUM=/path"
        )
    print("Chromium:", found)
