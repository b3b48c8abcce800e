"""Glyphs: characters of the world's writing systems, drawn by the computer. Nothing to download.

They stand in for Omniglot (Lake et al. 2015): a class is a character, and an example of it is one
"drawing". The characters come from the font files that matplotlib carries; a drawing takes a font
that has the character and bends it as a hand would: slant, turn, size, place, a smooth elastic
warp (Simard et al. 2003) and a pen's width. Characters that look alike (A of Latin, Greek and
Cyrillic) are one class, the first one's.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metanotes.data.files.archives import Arrays
from metanotes.data.files.cache import cached_arrays
from metanotes.data.files.folders import cache_folder
from metanotes.data.images.drawing import (
    blur,
    font_files,
    moved,
    open_font,
    penned,
    reference_image,
)
from metanotes.data.images.images import Images

VERSION = 1  # of the drawings; any change to what is drawn raises it
DRAWINGS = 20  # of each character, as in Omniglot
SIZE = 28
ALIKE = 0.93  # the correlation above which two characters are one class

# Alphabets by their code points. The order matters: of characters that look alike the first stays.
BACKGROUND = {
    "Latin": "0030-0039 0041-005A 0061-007A",
    "Greek": "0370-03FF",
    "Cyrillic": "0400-045F",
    "Cyrillic_Historic": "0460-052F A640-A69F",
    "Latin_Extended": "00C0-024F 1E00-1EFF 2C60-2C7F A720-A7FF",
    "Phonetic": "0250-02AF 1D00-1D7F",
    "Armenian": "0531-0587",
    "Tifinagh": "2D30-2D67",
    "Canadian_Syllabics": "1401-1676",
    "Fraktur": "1D504-1D537",
}
EVALUATION = {
    "Arabic": "0621-064A 0660-0669",
    "Arabic_Extended": "066E-06F9",
    "Hebrew": "05D0-05EA",
    "Georgian_Mkhedruli": "10D0-10FA",
    "Georgian_Khutsuri": "10A0-10C5 2D00-2D25",
    "Lao": "0E81-0EDF",
    "NKo": "07C0-07EA",
    "Ogham": "1681-169A",
    "Old_Italic": "10300-1031E",
    "Braille": "2801-283F",
    "Script": "1D49C-1D4CF",
    "APL": "2336-237A",
}


def glyphs(
    split: Literal["background", "evaluation"] = "background",
    *,
    root: str | os.PathLike[str] | None = None,
) -> Images:
    """Characters of real writing systems, 20 drawings each, generated once and then kept.

    The two splits share no alphabet and no look-alike, as the two of Omniglot share no alphabet.
    The drawings are the same wherever the fonts are, up to the rounding of a pixel. Some characters
    are others turned (Canadian syllabics), so with `rotations="classes"` a few classes look alike.

    Args:
        split: `"background"` to learn from, `"evaluation"` to be judged on.
        root: the folder to keep the array file in, under `glyphs/`; by default the one that the
            environment variable `METANOTES_CACHE` names, or else `~/.cache/metanotes`.

    Returns:
        `Images`: x `[n, 1, 28, 28]` uint8 with ink 255, y `[n]`, and names `"Alphabet/CHARACTER"`,
        the character by its Unicode name.

    Raises:
        ValueError: `split` is neither of the two.
        PermissionError: the array file is not there and the folder cannot be written to.
        FileNotFoundError: matplotlib lacks one of its font files.

    Source: the task after Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through
    probabilistic program induction", Science 2015; the fonts are DejaVu and STIX.

    >>> background, evaluation = glyphs("background"), glyphs("evaluation")
    >>> background.x.shape[1:], background.x.dtype
    (torch.Size([1, 28, 28]), torch.uint8)
    >>> len(background.names) + len(evaluation.names) >= 1000
    True
    >>> background.names[10]
    'Latin/LATIN CAPITAL LETTER A'
    """
    alphabets = {"background": BACKGROUND, "evaluation": EVALUATION}
    if split not in alphabets:
        raise ValueError(f"split={split!r} is unknown; use 'background' or 'evaluation'")
    fonts = font_files()
    fingerprint = hashlib.sha256(b"".join(font.read_bytes() for font in fonts)).hexdigest()
    path = cache_folder(root) / "glyphs" / f"glyphs-v{VERSION}-{fingerprint[:12]}.npz"
    arrays = cached_arrays(path, lambda: _make(fonts))
    chosen = np.array([name.split("/")[0] in alphabets[split] for name in arrays["names"]])
    x = torch.from_numpy(arrays["x"][chosen]).flatten(0, 1).unsqueeze(1)
    names = tuple(str(name) for name in arrays["names"][chosen])
    return Images(x, torch.from_numpy(np.arange(len(names)).repeat(DRAWINGS)), names)


def _make(fonts: list[Path]) -> Arrays:
    """Draw everything: x `[classes, 20, 28, 28]`, names `[classes]`."""
    with torch.device("cpu"):  # whatever the reader's default device
        references = _reference_images(fonts)
        names = _without_look_alikes({name: images[0] for name, images in references.items()})
        generator = torch.Generator("cpu").manual_seed(0)
        drawings = []
        for name in names:
            images = torch.from_numpy(np.stack(references[name]))
            rounds = -(-DRAWINGS // len(images))
            order = [torch.randperm(len(images), generator=generator) for _ in range(rounds)]
            drawings.append(draw(images[torch.cat(order)[:DRAWINGS]], generator))
        return {"x": torch.stack(drawings).numpy(), "names": np.array(names)}


def _reference_images(fonts: list[Path]) -> dict[str, list[np.ndarray]]:
    """Every character by name, `"Alphabet/CHARACTER"`, once from each font that has it."""
    from matplotlib.ft2font import FT2Font

    charmaps = [set(FT2Font(str(file)).get_charmap()) for file in fonts]
    pens = [open_font(file) for file in fonts]
    references = {}
    for alphabet, ranges in (BACKGROUND | EVALUATION).items():
        for code in _characters(ranges):
            images = [
                reference_image(pen, chr(code))
                for pen, codes in zip(pens, charmaps, strict=True)
                if code in codes
            ]
            if images:
                references[f"{alphabet}/{unicodedata.name(chr(code))}"] = images
    return references


def _characters(ranges: str) -> list[int]:
    """The letters, digits and symbols in `"0041-005A ..."` that are not composed of others."""
    codes = []
    for part in ranges.split():
        first, last = (int(end, 16) for end in part.split("-"))
        codes += [
            code
            for code in range(first, last + 1)
            if unicodedata.category(chr(code)) in {"Lu", "Ll", "Lo", "Nd", "So", "Sm"}
            and unicodedata.decomposition(chr(code)).split(" ")[0] in {"", "<font>"}
        ]
    return codes


def _without_look_alikes(references: dict[str, np.ndarray]) -> list[str]:
    """The names of the characters that no earlier one resembles."""
    x = torch.from_numpy(np.stack(list(references.values()))).float().unsqueeze(1)
    x = blur(F.avg_pool2d(x, 2), 1.5).flatten(1)
    x = F.normalize(x - x.mean(1, keepdim=True), dim=1)
    alike = x @ x.T > ALIKE
    kept: list[int] = []
    for i in range(len(x)):
        if not alike[i, kept].any():
            kept.append(i)
    names = list(references)
    return [names[i] for i in kept]


def draw(images: Tensor, generator: torch.Generator) -> Tensor:
    """One drawing `[n, 28, 28]` uint8 of each reference image `[n, 64, 64]` uint8."""
    n, fine = len(images), 2 * SIZE

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    turn, slant = (spread * torch.randn(n, generator=generator) for spread in (0.14, 0.18))
    wide, tall = uniform(0.85, 1.35, n), uniform(0.85, 1.25, n)
    places = moved(turn, slant, wide, tall, uniform(-0.12, 0.12, n, 2, 1), fine)

    # The elastic part: 4x4 random pulls, smoothly interpolated.
    pulls = 0.09 * torch.randn(n, 2, 4, 4, generator=generator)
    bend = F.interpolate(pulls, size=(fine, fine), mode="bicubic", align_corners=True)
    x = images.unsqueeze(1).float() / 255
    x = F.grid_sample(x, places + bend.permute(0, 2, 3, 1), align_corners=False)

    x = penned(x, uniform(0.15, 0.5, n, 1, 1, 1))
    return (x * 255).round().to(torch.uint8).squeeze(1)
