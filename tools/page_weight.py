"""How heavy and how fast the pages of a built site are, as a table.

    python tools/page_weight.py                        all pages of _build/html
    python tools/page_weight.py --pages notebooks/03   those whose names begin so
    python tools/page_weight.py --before FOLDER        beside another build of the site

Chromium opens each page from a server that compresses, over a line of 10 Mbit/s that takes 60 ms,
with nothing in its cache, and reads it to its end, so that whatever waits for its reader is loaded.

- weight: all that came over the line, in kB (1000 bytes);
- requests: how many files that were;
- first paint: when the first words or pictures stand on the screen, the best of `--repeat`, since
  another program on the machine can only delay it;
- shift: the layout shift that Chromium counts while the page loads and is read; the worst.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import http.server
import mimetypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pages
from playwright.sync_api import Browser, Page, sync_playwright
from playwright.sync_api import TimeoutError as Unrest

ROOT = Path(__file__).resolve().parent.parent
LINE = {"offline": False, "latency": 60, "downloadThroughput": 1.25e6, "uploadThroughput": 1.25e6}
TEXT = (".html", ".css", ".js", ".svg", ".json", ".txt", ".xml")
SHIFTS = """() => {
  window.shifted = 0;
  new PerformanceObserver(list => {
    for (const entry of list.getEntries())
      if (!entry.hadRecentInput) window.shifted += entry.value;
  }).observe({ type: 'layout-shift', buffered: true });
}"""
PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"


@dataclass(frozen=True)
class Reading:
    """What it took to open a page and read it to its end.

    Args:
        weight: bytes over the line.
        requests: files.
        paint: milliseconds to the first words, or None if nothing was painted.
        shift: the sum of the layout shifts.
    """

    weight: int
    requests: int
    paint: float | None
    shift: float


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends the files of a folder, texts compressed, as a site's host does."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *args: Any, root: Path) -> None:
        self.root = root
        super().__init__(*args)

    def do_GET(self) -> None:
        path = self.root / unquote(urlsplit(self.path).path).lstrip("/")
        try:
            body, packed = content(path)
        except OSError:
            self.send_error(404)
            return
        self.send_response(200)
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if packed:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@functools.cache
def content(path: Path) -> tuple[bytes, bool]:
    """What is sent of a file, and whether it is compressed."""
    data = path.read_bytes()
    return (gzip.compress(data, mtime=0), True) if path.suffix in TEXT else (data, False)


class Server(http.server.ThreadingHTTPServer):
    """Keeps more than five requests waiting, since a page asks for many at once."""

    request_queue_size = 64


@contextmanager
def server(root: Path) -> Iterator[str]:
    """The address of a folder that is served while the context lasts."""
    handler = functools.partial(Handler, root=root)
    with Server(("127.0.0.1", 0), handler) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def read(window: Browser, address: str, slowly: bool = True) -> Reading:
    """Open a page in a browser that has seen nothing yet, and scroll to its end.

    A page that does not come to rest, as happens where a request is lost, is opened once more.

    Args:
        window: the browser.
        address: of the page, on a `server`.
        slowly: whether over the line of 10 Mbit/s.
    """
    try:
        return opened(window, address, slowly)
    except Unrest:
        return opened(window, address, slowly)


def opened(window: Browser, address: str, slowly: bool) -> Reading:
    """One reading of a page."""
    with window.new_context(viewport=pages.DESKTOP) as context:  # type: ignore[arg-type]
        page = context.new_page()
        client = context.new_cdp_session(page)
        client.send("Network.enable")
        if slowly:
            client.send("Network.emulateNetworkConditions", LINE)
        asked: set[str] = set()
        arrived: dict[str, float] = {}

        def request(event: dict[str, Any]) -> None:
            if event["request"]["url"].startswith("http"):
                asked.add(event["requestId"])

        def finished(event: dict[str, Any]) -> None:
            arrived[event["requestId"]] = event["encodedDataLength"]

        client.on("Network.requestWillBeSent", request)
        client.on("Network.loadingFinished", finished)
        page.add_init_script(f"({SHIFTS})()")
        page.goto(address, wait_until="networkidle", timeout=30_000)
        to_the_end(page)
        paint, shift = page.evaluate(PAINT), page.evaluate("() => window.shifted")
    weight = sum(arrived.get(name, 0) for name in asked)
    return Reading(round(weight), len(asked), paint, shift)


def to_the_end(page: Page) -> None:
    """Read on by windows until the page ends and nothing more comes."""
    page.evaluate("() => window.MathJax?.startup?.promise?.then(() => 1)")
    height, end = pages.DESKTOP["height"], 0
    while end < page.evaluate("() => document.documentElement.scrollHeight"):
        end += height
        page.evaluate("y => window.scrollTo({ top: y, behavior: 'instant' })", end)
        page.wait_for_timeout(60)
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(600)


def best(window: Browser, address: str, repeat: int) -> Reading:
    """A page read several times: the first paint is the best of them, the shift is the worst."""
    readings = [read(window, address) for _ in range(repeat)]
    paints = [reading.paint for reading in readings if reading.paint is not None]
    return Reading(
        max(reading.weight for reading in readings),
        max(reading.requests for reading in readings),
        min(paints, default=None),
        max(reading.shift for reading in readings),
    )


def cells(reading: Reading | None) -> list[str]:
    if reading is None:
        return [""] * 4
    paint = "" if reading.paint is None else f"{reading.paint:.0f}"
    return [
        f"{reading.weight / 1000:.0f}",
        str(reading.requests),
        paint,
        f"{reading.shift:.3f}",
    ]


def table(rows: list[tuple[str, list[Reading | None]]]) -> str:
    """The readings of pages in Markdown, one or two of each."""
    head = ["weight kB", "requests", "first paint ms", "shift"]
    if len(rows[0][1]) == 2:
        head = [f"{name}, {when}" for when in ("before", "now") for name in head]
    lines = [["page", *head], ["---"] + ["---:"] * len(head)]
    lines += [[name, *(c for reading in found for c in cells(reading))] for name, found in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", nargs="?", type=Path, default=ROOT / "_build" / "html")
    parser.add_argument("--before", type=Path, help="another build, shown beside")
    parser.add_argument("--pages", nargs="*", default=["book/", "notebooks/"], metavar="PREFIX")
    parser.add_argument("--repeat", type=int, default=2)
    options = parser.parse_args()
    sites = [site for site in (options.before, options.site) if site]
    names = [n for n in pages.all_pages(options.site) if n.startswith(tuple(options.pages))]
    rows: list[tuple[str, list[Reading | None]]] = [(name, []) for name in names]
    with sync_playwright() as playwright:
        window = pages.launch(playwright)
        for site in sites:
            with server(site.resolve()) as address:
                for name, found in rows:
                    there = (site / name).exists()
                    found.append(
                        best(window, f"{address}/{name}", options.repeat) if there else None
                    )
        window.close()
    print(table(rows))


if __name__ == "__main__":
    main()
