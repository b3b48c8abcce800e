"""Look at built pages as a reader's browser does: headless Chromium, with the network cut off.

`Reader` opens a page and reports what is wrong with it, as lists of sentences; an empty list is a
good page. The site tests ask about every page, and about pages broken on purpose.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import browser
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, Route

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP = {"width": 1300, "height": 900}
PHONE = {"width": 390, "height": 844}


def launch(playwright: Playwright) -> Browser:
    """Start the Chromium that tools/browser.py finds."""
    path = browser.find()
    if path is None:
        raise RuntimeError("no Chromium on this machine; `make browser` installs it")
    return playwright.chromium.launch(executable_path=path, args=ARGUMENTS)


@dataclass
class Visit:
    """An open page, and what went wrong while it loaded."""

    page: Page
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)


class Reader:
    """A browser window of one size and theme. `base` is a file:// or http://localhost address."""

    def __init__(self, window: Browser, base: str, size: dict[str, int], theme: str) -> None:
        self.base = base
        self.context = window.new_context(
            viewport=size,  # type: ignore[arg-type]
            color_scheme=theme,  # type: ignore[arg-type]
            permissions=["clipboard-read", "clipboard-write"],
        )
        self.context.set_default_timeout(15_000)

    def open(self, name: str) -> Visit:
        """Load a page and wait until its mathematics is there."""
        visit = Visit(self.context.new_page())

        def guard(route: Route) -> None:
            parts = urlsplit(route.request.url)
            local = parts.scheme in ("file", "data", "blob") or parts.hostname == "127.0.0.1"
            if local:
                route.continue_()
            else:
                visit.outside.append(route.request.url)
                route.abort()

        def note(message: ConsoleMessage) -> None:
            if message.type == "error":
                visit.errors.append(message.text)

        visit.page.route("**/*", guard)
        visit.page.on("console", note)
        visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
        visit.page.goto(f"{self.base}/{name}", wait_until="load")
        visit.page.evaluate(
            "() => window.MathJax && MathJax.startup ? MathJax.startup.promise.then(() => 1) : 1"
        )
        return visit

    def close(self) -> None:
        self.context.close()


FIGURE = ".panels"  # a figure to touch, see book/_ext/panels.py

_TEXT = """() => {
  const skip = new Set(['SCRIPT', 'STYLE', 'PRE', 'CODE', 'TEXTAREA', 'MJX-CONTAINER', 'NOSCRIPT']);
  const out = [];
  const walk = node => {
    if (node.nodeType === Node.TEXT_NODE) out.push(node.textContent);
    else if (node.nodeType === Node.ELEMENT_NODE && !skip.has(node.tagName))
      node.childNodes.forEach(walk);
  };
  walk(document.querySelector('article') || document.body);
  return out.join(' ').replace(/\\s+/g, ' ');
}"""
_RAW = re.compile(
    r"\\\(|\\\[|\\begin\{|\\frac|\\sum|\\theta|\\phi|\$[^$]{1,80}\$|\{[a-z:]+\}`|^:::", re.M
)


def mathematics(visit: Visit) -> list[str]:
    """Formulas that are not rendered, and markup that shows as text."""
    page, found = visit.page, []
    if page.locator("article .math").count():
        if not page.evaluate("() => !!(window.MathJax && MathJax.typesetPromise)"):
            found.append("MathJax did not load")
        bare = page.evaluate(
            "() => [...document.querySelectorAll('article .math')]"
            ".filter(e => !e.querySelector('mjx-container')).map(e => e.textContent.slice(0, 60))"
        )
        found += [f"not rendered: {text}" for text in bare]
    found += page.evaluate(
        "() => [...document.querySelectorAll('mjx-merror, [data-mjx-error]')]"
        ".map(e => 'error in mathematics: ' + (e.dataset.mjxError || e.textContent))"
    )
    found += page.evaluate(
        "() => [...document.fonts].filter(f => f.status === 'error')"
        ".map(f => 'a font did not load: ' + f.family)"
    )
    found += [f"shows as text: {match[0]}" for match in _RAW.finditer(page.evaluate(_TEXT))]
    return found


def pictures(visit: Visit) -> list[str]:
    """Pictures without alternative text, or that did not load."""
    return visit.page.evaluate(
        """() => {
      const found = [];
      for (const e of document.querySelectorAll('img')) {
        const where = e.src.slice(0, 80);
        if (!(e.getAttribute('alt') || '').trim()) found.push('no alternative text: ' + where);
        if (e.complete && !e.naturalWidth) found.push('did not load: ' + where);
      }
      for (const e of document.querySelectorAll('article svg')) {
        const named = e.getAttribute('aria-label') || e.querySelector('title');
        const hidden = e.closest('[aria-hidden="true"]') || e.closest('mjx-container')
          || e.closest('button, summary, .sd-summary-title');
        if (!named && !hidden) found.push('an svg without a name: ' + e.outerHTML.slice(0, 80));
      }
      return found;
    }"""
    )


def overflow(visit: Visit) -> list[str]:
    """What sticks out of the window to the right and does not scroll by itself."""
    return visit.page.evaluate(
        """() => {
      const edge = document.documentElement.clientWidth + 0.5;
      const held = e => {
        for (let p = e.parentElement; p && p !== document.body; p = p.parentElement) {
          const style = getComputedStyle(p);
          if (style.overflowX !== 'visible' && p.getBoundingClientRect().right <= edge) return true;
          if (style.visibility === 'hidden') return true;
        }
        return false;
      };
      const found = [...document.querySelectorAll('main *')].filter(e => {
        const box = e.getBoundingClientRect();
        return box.width > 0 && box.right > edge && !e.closest('dialog, .bd-sidebar-secondary')
          && !held(e);
      }).map(e => e.tagName + '.' + e.className + ': ' + e.textContent.trim().slice(0, 50));
      const wide = document.documentElement.scrollWidth;
      if (wide > edge) found.unshift('the page is ' + wide + ' pixels wide');
      return found.slice(0, 8);
    }"""
    )


_CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const colours = new Map(), grounds = new Map();
  const rgb = colour => {
    if (!colours.has(colour)) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
      colours.set(colour, [...canvas.getImageData(0, 0, 1, 1).data]);
    }
    return colours.get(colour);
  };
  const light = c => {
    const [r, g, b] = c.slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const over = (c, below) => below.map((v, i) => v + (c[i] - v) * c[3] / 255);
  // What an element stands on: tints, such as those of exercises, over what lies below them.
  const ground = e => {
    if (!e) return [255, 255, 255];
    if (!grounds.has(e)) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      grounds.set(e, c[3] === 255 ? c.slice(0, 3) : over(c, ground(e.parentElement)));
    }
    return grounds.get(e);
  };
  const worst = {};
  for (const e of document.querySelectorAll('article *, nav a')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
    if (e.closest('svg, mjx-container, script, style, [aria-hidden="true"], .headerlink')) continue;
    const below = ground(e), colour = over(rgb(getComputedStyle(e).color), below);
    const a = light(colour), b = light(below);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const key = e.tagName + (e.className ? '.' + e.className : '');
    const text = e.textContent.trim().slice(0, 40);
    if (!(key in worst) || ratio < worst[key][0]) worst[key] = [ratio, text];
  }
  return Object.entries(worst).filter(([, [ratio]]) => ratio < 4.5)
    .map(([key, [ratio, text]]) => `contrast ${ratio.toFixed(2)} of ${key}: ${text}`);
}"""


def contrast(visit: Visit) -> list[str]:
    """Text that is hard to read on its ground: a ratio under 4.5, as WCAG has it."""
    return visit.page.evaluate(_CONTRAST)


def darken(visit: Visit) -> None:
    """Turn an open page to the dark theme, as its button does, without loading it again."""
    visit.page.evaluate("() => { document.documentElement.dataset.theme = 'dark'; }")
    visit.page.wait_for_timeout(150)  # colours that change slowly


def copy_buttons(visit: Visit) -> list[str]:
    """Code without a copy button."""
    return visit.page.evaluate(
        """() => [...document.querySelectorAll('article .highlight pre')]
      .filter(e => !e.closest('.output') && !e.parentElement.querySelector('button.copybtn'))
      .map(e => 'no copy button: ' + e.textContent.slice(0, 40))"""
    )


def names_of_controls(visit: Visit) -> list[str]:
    """Buttons, sliders, menus and fields that a screen reader could not name."""
    return visit.page.evaluate(
        """() => [...document.querySelectorAll(
        'button, input:not([type=hidden]), select, textarea, [role=slider], [role=button]')]
      .filter(e => e.getClientRects().length)
      .filter(e => !((e.getAttribute('aria-label') || e.title || e.textContent || '').trim()
        || (e.labels && e.labels.length && e.labels[0].textContent.trim())
        || e.placeholder
        || (e.getAttribute('aria-labelledby')
          && document.getElementById(e.getAttribute('aria-labelledby')))))
      .map(e => 'without a name: ' + e.outerHTML.slice(0, 100))"""
    )


# What a figure shows now: the alternative texts and the words of its visible panel.
_SHOWN = """box => [...box.querySelectorAll('.panel')]
  .filter(e => getComputedStyle(e).visibility === 'visible')
  .map(e => (e.querySelector('img') ? e.querySelector('img').alt : '') + '|' + e.textContent)
  .join('\\n')"""


# Pictures that have not loaded after ten seconds, on a machine that may have much to do.
_BROKEN = """async box => {
  const pictures = [...box.querySelectorAll('img')];
  const loaded = e => e.complete || new Promise(then => {
    e.addEventListener('load', then);
    e.addEventListener('error', then);
    setTimeout(then, 10000);
  });
  await Promise.all(pictures.map(loaded));
  return pictures.filter(e => !e.complete || !e.naturalWidth).map(e => e.src.slice(-60));
}"""


def interaction(visit: Visit) -> list[str]:
    """Move every slider by mouse and by keyboard, every menu, every play button."""
    page, found = visit.page, []
    figures = page.locator(FIGURE)
    for number in range(figures.count()):
        box = figures.nth(number)
        box.scroll_into_view_if_needed()

        def shown(box: Any = box, after: float = 0) -> str:
            if after:
                page.wait_for_timeout(after)
            else:
                page.evaluate("() => new Promise(requestAnimationFrame)")
            return str(box.evaluate(_SHOWN))

        who = f"figure {number + 1}"
        if not shown().strip("|\n "):
            found.append(f"{who} shows nothing")
        sliders, menus = box.locator("input[type=range]"), box.locator("select")
        if not sliders.count() + menus.count():
            found.append(f"{who} has no control")
        for slider in sliders.all():
            slider.evaluate("e => e.scrollIntoView({ block: 'center' })")  # of a tall figure too
            before, line = shown(), slider.bounding_box()
            assert line is not None
            middle, width = line["y"] + line["height"] / 2, line["width"]
            share = slider.evaluate("e => (e.value - e.min) / (e.max - e.min)")
            page.mouse.move(line["x"] + 8 + share * (width - 16), middle)
            page.mouse.down()
            page.mouse.move(line["x"] + (2 if share > 0.5 else width - 2), middle, steps=8)
            page.mouse.up()
            dragged = shown()
            if dragged == before:
                found.append(f"{who}: dragging the slider changes nothing")
            slider.focus()
            page.keyboard.press("ArrowRight" if share > 0.5 else "ArrowLeft")
            if shown() == dragged:
                found.append(f"{who}: an arrow key changes nothing")
            if slider.get_attribute("aria-valuetext") != box.locator("output").inner_text():
                found.append(f"{who}: a screen reader hears another value")
        for menu in menus.all():
            before = shown()
            menu.focus()
            count = menu.locator("option").count()
            last = menu.evaluate("e => e.selectedIndex") == count - 1
            page.keyboard.press("ArrowUp" if last else "ArrowDown")
            if shown() == before:
                found.append(f"{who}: the menu changes nothing")
        for play in box.locator(".panels-play").all():
            sliders.first.focus()
            page.keyboard.press("Home")
            before = shown()
            play.click()
            if not any(shown(after=60) != before for _ in range(30)):  # for some two seconds
                found.append(f"{who}: the play button changes nothing")
            play.evaluate("e => e.textContent === 'Stop' && e.click()")  # or it would go on
        broken = box.evaluate(_BROKEN)
        found += [f"{who}: did not load: {source}" for source in broken]
    return found


@cache
def _soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@cache
def _anchors(path: Path) -> frozenset[str]:
    soup = _soup(path)
    return frozenset(str(tag.get("id") or tag.get("name")) for tag in soup.find_all(True))


def links(root: Path, name: str) -> list[str]:
    """References to files or anchors of the site that do not exist."""
    path, found = root / name, []
    for tag in _soup(path).find_all(["a", "img", "script", "link", "source"]):
        target = str(tag.get("href") or tag.get("src") or "")
        parts = urlsplit(target)
        if not target or parts.scheme or parts.netloc:
            continue
        other = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
        if other.is_dir():
            other = other / "index.html"
        if not other.exists():
            found.append(f"<{tag.name}> to a file that is not there: {target}")
        elif (
            parts.fragment
            and tag.name == "a"
            and other.suffix == ".html"
            and unquote(parts.fragment) not in _anchors(other)
        ):
            found.append(f"no such place: {target}")
    return found


def all_pages(root: Path) -> list[str]:
    """The names of all pages of a built site, from its root."""
    found = (path.relative_to(root) for path in root.rglob("*.html"))
    return sorted(str(path) for path in found if not str(path).startswith(("_static", "_sources")))
