"""Pictures: whole and of a sensible size, or refused by name."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from metanotes.data import DamagedDataError
from metanotes.data.files import decode, square
from tests.data.damage import png_that_claims

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)


def encoded(kind, pixels=PIXELS):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "PPM"])
def test_a_picture_is_decoded(kind):
    assert np.array_equal(np.asarray(decode(encoded(kind), "a", "b")), PIXELS)


@pytest.mark.parametrize("side", [10_001, 20_000, 40_000, 2**31 - 1])
def test_a_picture_that_claims_too_much_is_named_and_not_decoded(side):
    """Also where Pillow would only warn, and where it refuses by itself."""
    contents = png_that_claims(side, side)
    assert len(contents) < 100
    with pytest.raises(DamagedDataError, match=r"dir/a\.png cannot be read .*; draw it again"):
        decode(contents, "dir/a.png", "draw it again")


def test_the_limit_is_of_pixels():
    assert decode(encoded("PNG"), "a", "b", most=9 * 14).size == (14, 9)
    with pytest.raises(DamagedDataError, match=r"it has 14 x 9 pixels, more than 125"):
        decode(encoded("PNG"), "a", "b", most=9 * 14 - 1)


def test_whatever_bytes_there_are_they_are_decoded_or_refused():
    random = np.random.default_rng(1)
    for kind in ("PNG", "JPEG", "PPM"):
        whole = encoded(kind)
        for _ in range(150):
            contents = bytearray(whole)
            contents[random.integers(len(contents))] ^= 1 << random.integers(8)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a decoder's, of a strange but readable file
                try:
                    decode(bytes(contents), "a", "b")
                except DamagedDataError as error:
                    assert "a cannot be read" in str(error)  # noqa: PT017


def test_a_square_is_resized_by_lanczos():
    picture = Image.fromarray(PIXELS)
    expected = np.asarray(picture.resize((6, 6), Image.LANCZOS))
    assert np.array_equal(square(picture, 6), expected.transpose(2, 0, 1))
    assert square(picture.convert("L"), 6).shape == (6, 6)
