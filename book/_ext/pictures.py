"""Pictures with fewer bytes that look the same, and how large a page shows them.

An SVG of matplotlib states each place with six decimals, and says much that nobody sees. Here

- a place has two decimals of a point, 1/75 of a pixel, and is told from the place before it:
  `M 39.904146 196.297416 L 371.39976 196.297416` is `M39.9 196.3l331.5 0`. Differences are those of
  rounded places, so errors do not add up along a line;
- metadata, comments and names that nothing refers to are left out.

A PNG gets a palette where 256 colours or fewer do.
"""

from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ET
from pathlib import Path

from PIL import Image, ImageChops, ImageStat

SVG = "http://www.w3.org/2000/svg"
LINK = "http://www.w3.org/1999/xlink"
PIXELS = {"pt": 4 / 3, "px": 1.0, "": 1.0, "in": 96.0}  # by CSS
REFERENCE = r"(^|url\()#([^)]+)"  # the whole of a link, or in url(#name)
DECIMALS = 2
ERROR = 2.0  # root mean square, of 255, that a palette may cost
SIZES = {"M": 2, "L": 2, "Q": 4, "C": 6, "Z": 0}  # how many numbers follow a command


def light(data: bytes, suffix: str) -> bytes:
    """A picture with fewer bytes; itself, if it cannot be made smaller.

    Args:
        data: the bytes of its file.
        suffix: "svg" or "png"; others stay as they are.
    """
    if suffix == "svg":
        smaller = light_svg(data)
    elif suffix == "png":
        smaller = light_png(data)
    else:
        return data
    return min(smaller, data, key=len)


def light_svg(data: bytes) -> bytes:
    """An SVG as matplotlib writes it, in fewer words."""
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", LINK)
    if b"Matplotlib" not in data:
        return data
    root = ET.fromstring(data)
    values = [value for element in root.iter() for value in element.attrib.values()]
    referred = sorted({m[2] for value in values for m in re.finditer(REFERENCE, value)})
    short = {name: f"a{count}" for count, name in enumerate(referred)}
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    for element in root.iter():
        lighten(element, short)
    unwrap(root)
    return ET.tostring(root, encoding="utf-8")


def lighten(element: ET.Element, short: dict[str, str]) -> None:
    """Shorten what one element says, in place.

    Args:
        element: of an SVG.
        short: the new name of each name that is referred to.
    """
    if not element.tag.endswith(("}text", "}tspan", "}style")):
        element.text = element.text and element.text.strip()
        element.tail = element.tail and element.tail.strip()
    given = element.attrib
    if "id" in given:
        name = given.pop("id")
        if name in short:
            given["id"] = short[name]
    for key, value in given.items():
        if key == "d":
            value = light_path(value)
        elif key in ("x", "y") or key == "transform":
            value = rounded_places(value)
        elif key == "style":
            value = re.sub(r"([;:])\s+", r"\1", value).replace("#000000", "#000")
            value = value.replace("#ffffff", "#fff")
        elif key.endswith("href") and value.startswith("data:image/png;base64,"):
            png = light(base64.b64decode(value.split(",", 1)[1]), "png")
            value = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        given[key] = re.sub(REFERENCE, lambda m: f"{m[1]}#{short.get(m[2], m[2])}", value)


def unwrap(element: ET.Element) -> None:
    """Take groups away that say nothing of what is in them."""
    whole: list[ET.Element] = []
    for child in element:
        unwrap(child)
        whole += list(child) if child.tag == f"{{{SVG}}}g" and not child.attrib else [child]
    element[:] = whole


def rounded_places(text: str) -> str:
    """The numbers of x, y or translate(x y) rounded; those of scale and rotate stay.

    >>> rounded_places("translate(32.533052 210.895072) scale(0.1 -0.1)")
    'translate(32.53 210.9) scale(0.1 -0.1)'
    """

    def places(match: re.Match[str]) -> str:
        return re.sub(r"-?\d+\.\d+", lambda m: number(float(m[0])), match[0])

    return re.sub(r"^[-\d.]+$|translate\([^)]*\)", places, text)


def light_path(text: str) -> str:
    """A path by differences of rounded places, where it has only the commands that we know.

    >>> light_path("M 39.904146 196.297416 \\nL 371.39976 196.297416 \\nL 371.39976 16.60024 \\nz")
    'M39.9 196.3l331.5 0 0-179.7z'
    """
    tokens = re.findall(r"[A-Za-z]|-?\d+\.?\d*(?:e-?\d+)?", text)
    words: list[str] = []
    here = start = (0.0, 0.0)
    last, position = "", 0
    while position < len(tokens):
        command = tokens[position].upper()
        if tokens[position] not in ("M", "L", "Q", "C", "z", "Z"):
            return text
        places = [round(float(v), DECIMALS) for v in tokens[position + 1 :][: SIZES[command]]]
        position += 1 + len(places)
        if command == "Z":
            words.append("z")
            here = start
        elif command == "M":
            words.append("M" + joined(places))
            here = start = (places[0], places[1])
        else:
            steps = joined([place - here[k % 2] for k, place in enumerate(places)])
            space = "" if steps.startswith("-") else " "
            words.append((space if command == last else command.lower()) + steps)
            here = (places[-2], places[-1])
        last = command
    return "".join(words)


def joined(values: list[float]) -> str:
    """Numbers with a space between them, except before a minus.

    >>> joined([0.5, -3.0, 2.25])
    '.5-3 2.25'
    """
    return " ".join(number(value) for value in values).replace(" -", "-")


def number(value: float) -> str:
    """A number, rounded, in as few letters as it takes.

    >>> number(-0.5), number(3.0), number(-0.0)
    ('-.5', '3', '0')
    """
    text = f"{value:.{DECIMALS}f}".rstrip("0").rstrip(".")
    text = re.sub(r"^(-?)0\.", r"\1.", text)
    return "0" if text in ("-0", "", "-") else text


def light_png(data: bytes) -> bytes:
    """A PNG in grey levels or with a palette, if that shows the same."""
    picture = Image.open(io.BytesIO(data))
    if picture.mode not in ("RGB", "RGBA") or getattr(picture, "n_frames", 1) > 1:
        return data
    if picture.mode == "RGBA":
        if picture.getextrema()[3] != (255, 255):
            return data
        picture = picture.convert("RGB")
    grey = picture.convert("L")
    if is_near(picture, grey.convert("RGB"), 0.0):
        return png(grey)
    for colours in (64, 128, 256):
        palette = picture.quantize(colours, dither=Image.Dither.NONE)
        if is_near(picture, palette.convert("RGB"), ERROR):
            return png(palette)
    return png(picture)


def is_near(one: Image.Image, other: Image.Image, error: float) -> bool:
    return max(ImageStat.Stat(ImageChops.difference(one, other)).rms) <= error


def png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    return out.getvalue()


def size(path: Path) -> tuple[int, int] | None:
    """How many pixels wide and high a browser shows a picture, or None for what is not known."""
    if path.suffix == ".svg":
        return size_of_svg(path.read_text(encoding="utf-8")[:2000])
    if path.suffix not in (".png", ".jpg", ".jpeg", ".gif", ".webp"):
        return None
    with Image.open(path) as picture:
        return picture.size


def size_of_svg(head: str) -> tuple[int, int] | None:
    """The size that an SVG states, or that of its coordinates.

    >>> size_of_svg('<svg width="288pt" height="192pt" viewBox="0 0 288 192">')
    (384, 256)
    >>> size_of_svg('<svg viewBox="0 0 680 300">')
    (680, 300)
    """
    root = re.search(r"<svg\b[^>]*>", head)
    if root is None:
        return None
    sides = (re.search(rf'\b{side}="([\d.]+)(pt|px|in|)"', root[0]) for side in ("width", "height"))
    stated = [round(float(m[1]) * PIXELS[m[2]]) for m in sides if m]
    if len(stated) == 2:
        return stated[0], stated[1]
    box = re.search(r'\bviewBox="\S+ \S+ ([\d.]+) ([\d.]+)"', root[0])
    return (round(float(box[1])), round(float(box[2]))) if box else None
