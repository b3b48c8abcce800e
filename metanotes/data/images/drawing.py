"""How the computer draws a character: a font's own image of it, moved, and gone over with a pen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

CANVAS, BODY = 64, 44  # a reference image, and the longer side of the character in it
# Those of matplotlib's fonts whose codes are Unicode's throughout; the first that has a character
# draws its reference image.
FONTS = [
    "DejaVuSans.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSansMono.ttf",
    "STIXGeneral.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSerif-Italic.ttf",
    "DejaVuSansMono-Oblique.ttf",
    "STIXGeneralItalic.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSansMono-Bold.ttf",
    "STIXGeneralBol.ttf",
]


def font_files() -> list[Path]:
    """The files of the fonts, which matplotlib carries.

    Raises:
        FileNotFoundError: it lacks one of them.
    """
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    files = [folder / name for name in FONTS]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} has no {', '.join(missing)}; reinstall matplotlib")
    return files


def open_font(file: Path) -> FreeTypeFont:
    """The font of a file, at a size from which a reference image is reduced."""
    from PIL import ImageFont

    return ImageFont.truetype(str(file), 80, layout_engine=ImageFont.Layout.BASIC)


def reference_image(font: FreeTypeFont, character: str) -> np.ndarray:
    """The character in the middle of a canvas `[64, 64]`, its longer side 44, ink 255."""
    from PIL import Image

    mask = font.getmask(character, mode="L")
    image = Image.frombytes("L", mask.size, bytes(mask))
    image = image.crop(image.getbbox())
    scale = BODY / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    canvas = Image.new("L", (CANVAS, CANVAS))
    canvas.paste(
        image.resize((width, height), Image.Resampling.BILINEAR),
        ((CANVAS - width) // 2, (CANVAS - height) // 2),
    )
    return np.asarray(canvas)


def moved(
    turn: Tensor, slant: Tensor, wide: Tensor, tall: Tensor, shift: Tensor, size: int
) -> Tensor:
    """Where in its reference image each pixel of a drawing comes from, as `grid_sample` takes it.

    Args:
        turn: in radians, `[n]`.
        slant: how far the top leans against the bottom, `[n]`.
        wide: how many times narrower the drawing is, `[n]`.
        tall: how many times lower, `[n]`.
        shift: of its place, across and down, `[n, 2, 1]`; the image reaches from -1 to 1.
        size: height and width of the drawing in pixels.

    Returns:
        Places `[n, size, size, 2]` in -1..1.
    """
    cos, sin = turn.cos(), turn.sin()
    rows = [cos * wide, (slant - sin) * wide, sin * tall, (cos + slant * sin) * tall]
    linear = torch.stack(rows, 1).view(len(turn), 2, 2)
    shape = [len(turn), 1, size, size]
    return F.affine_grid(torch.cat([linear, shift], 2), shape, align_corners=False)


def penned(x: Tensor, cut: Tensor) -> Tensor:
    """Strokes of another width, at half the size: `[n, 1, 2H, 2W]` to `[n, 1, H, W]`, in 0..1.

    Args:
        x: drawings with ink 1.
        cut: where a blurred stroke is cut off, which decides how thick it is, `[n, 1, 1, 1]`.
    """
    return F.avg_pool2d(((blur(x, 1.0) - cut) * 4 + 0.5).clamp(0, 1), 2)


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of images `[n, 1, H, W]`."""
    reach = round(3 * sigma)
    line = torch.exp(-torch.arange(-reach, reach + 1.0).square() / (2 * sigma**2))
    line = line / line.sum()
    x = F.conv2d(x, line.view(1, 1, 1, -1), padding=(0, reach))
    return F.conv2d(x, line.view(1, 1, -1, 1), padding=(reach, 0))
