"""The icons that the site uses, and none of the other two thousand.

The theme draws icons twice over: by a font, and by a script of 1.5 MB that puts pictures in their
place. The font does it alone. Here it shrinks to the characters that occur and goes into the style
sheet itself, and the sheet loses its rules for icons that do not occur.
"""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont

RULE = re.compile(r'((?:\.fa-[a-z0-9-]+:before,?)+)\{content:"([^"]*)"\}')
FACE = re.compile(r"@font-face\{[^}]*?url\(([^)]*/fa-[a-z]+-\d+)\.woff2\)[^}]*\}")
SOURCE = re.compile(r"src:[^;}]*")
CHARACTER = re.compile(r"\\([ef][0-9a-f]{3})(?![0-9a-f])|([\ue000-\uf8ff])")
STYLES = ("solid", "brands")  # the theme shows nothing in the regular one
IN_SCRIPTS = {"xmark"}  # the theme's script makes this one


def use_few(static: Path, pages: list[str]) -> None:
    """Shrink the icons of a built site.

    Args:
        static: its _static folder, of which the theme's style sheet changes.
        pages: the HTML of all its pages.
    """
    sheet = static / "styles" / "pydata-sphinx-theme.css"
    whole = sheet.read_text(encoding="utf-8")
    used = IN_SCRIPTS.union(*(names(page) for page in pages))
    css = RULE.sub(lambda rule: rule[0] if used & set(named(rule[1])) else "", whole)
    others = (path.read_text(encoding="utf-8") for path in static.rglob("*.css") if path != sheet)
    wanted = characters(css).union(*(characters(text) for text in others))

    def face(match: re.Match[str]) -> str:
        style = match[1].rsplit("/", 1)[-1].split("-")[1]
        if style not in STYLES:
            return ""
        font = few(sheet.parent / f"{match[1]}.ttf", wanted)
        data = base64.b64encode(font).decode()
        return SOURCE.sub(f'src:url(data:font/woff;base64,{data}) format("woff")', match[0])

    sheet.write_text(FACE.sub(face, css), encoding="utf-8")


def names(page: str) -> set[str]:
    """The icons of a page, such as "rocket" for `<i class="fas fa-rocket">`.

    >>> sorted(names('<i class="fas fa-rocket"></i><p class="fast">'))
    ['rocket']
    """
    classes = re.findall(r'class="([^"]*\bfa-[^"]*)"', page)
    return {name for text in classes for name in re.findall(r"\bfa-([a-z0-9-]+)", text)}


def named(selectors: str) -> list[str]:
    return re.findall(r"\.fa-([a-z0-9-]+):before", selectors)


def characters(css: str) -> set[int]:
    """The characters of an icon font that a style sheet shows.

    >>> sorted(hex(code) for code in characters('a:before{content:"\\\\f002"} b{content:"x"}'))
    ['0xf002']
    """
    return {int(m[1], 16) if m[1] else ord(m[2]) for m in CHARACTER.finditer(css)}


def few(path: Path, wanted: set[int]) -> bytes:
    """A font with some of its characters, as WOFF."""
    options = Options()
    options.hinting = False
    options.layout_features = []
    options.drop_tables += ["GSUB", "GPOS", "GDEF"]
    font = TTFont(path, recalcTimestamp=False)
    subsetter = Subsetter(options)
    subsetter.populate(unicodes=wanted)
    subsetter.subset(font)
    font.flavor = "woff"
    out = io.BytesIO()
    font.save(out)
    return out.getvalue()
