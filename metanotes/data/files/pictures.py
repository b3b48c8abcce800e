"""Pictures: decoded if they are whole and of a sensible size, and made square."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

from metanotes.data.files.damage import DamagedDataError

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 100_000_000  # of a picture: 300 MB of colours


def decode(contents: bytes, name: str, remedy: str, *, most: int = MOST_PIXELS) -> Image:
    """A picture from the bytes of its file, decoded.

    Args:
        contents: a PNG, JPEG or PPM file, or any other that Pillow reads.
        name: the file's, for the message.
        remedy: what would do where it is damaged, for the message.
        most: the pixels that it may have; a small file may claim billions.

    Returns:
        A picture of Pillow's, in the colours of the file.

    Raises:
        DamagedDataError: it cannot be read, or has too many pixels.

    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("L", (5, 3)).save(file, "PNG")
    >>> decode(file.getvalue(), "small.png", "draw it again").size
    (5, 3)
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(contents))
        width, height = picture.size
        if width * height > most:
            raise ValueError(f"it has {width} x {height} pixels, more than {most:,}")
        picture.load()
    except Exception as error:  # whatever damage leads a decoder to
        raise DamagedDataError(f"{name} cannot be read ({error}); {remedy}") from error
    return picture


def square(picture: Image, size: int) -> np.ndarray:
    """A picture resized by Lanczos' filter, without regard to its proportions.

    Args:
        picture: one of Pillow's, grey or in colours.
        size: height and width in pixels.

    Returns:
        uint8, `[size, size]` of a grey picture and `[3, size, size]` of one in colours.

    >>> from PIL import Image
    >>> square(Image.new("RGB", (5, 3)), 4).shape
    (3, 4, 4)
    """
    from PIL import Image

    # Where the size is right already, this copies.
    pixels = np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS))
    return pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels
