"""Backgrounds: grey images laid on photographs or before clouds, as target domains.

Handwritten digits (`digits`) are a source, and the same digits on photographs are the target, as in
MNIST-M, made anew of any digits and any photographs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metanotes._ground import checks
from metanotes.data.files.damage import DamagedDataError
from metanotes.data.files.pictures import decode
from metanotes.data.images.images import Images

ENDINGS = (".jpg", ".jpeg", ".png")
REMEDY = "delete it or put a whole copy there"


def blend(digits: Images, photographs: Sequence[Tensor] | Tensor, *, seed: int = 0) -> Images:
    """The recipe of MNIST-M: each digit upon a random cut of a random photograph.

    A pixel is abs(photograph - digit), channel by channel: the ground stays as it is, and the ink
    shows it inverted. In the published images a stroke has no soft edge, and digits are a little
    larger: give digits of 0 and 255 alone to come closer to them.

    Args:
        digits: grey images, x `[n, 1, H, W]` uint8 with ink 255.
        photographs: colour images `[3, h, w]` uint8, each at least H high and W wide; or a
            tensor of them, `[m, 3, h, w]`.
        seed: any integer that `torch.Generator.manual_seed` takes; it chooses the photographs and
            the cuts.

    Returns:
        `Images`: x `[n, 3, H, W]` uint8, in the order of `digits`, with its y and names.

    Raises:
        ValueError: `digits` are not grey bytes, or a photograph is not one, is smaller than the
            digits, or there is none.

    Source: Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 17(59), 2016,
    section 5.2.4.

    >>> x = torch.tensor([[[[0, 255]]]], dtype=torch.uint8)
    >>> grey = torch.full((1, 3, 5, 5), 100, dtype=torch.uint8)
    >>> blend(Images(x, torch.tensor([0]), ("stroke",)), grey).x.tolist()
    [[[[100, 155]], [[100, 155]], [[100, 155]]]]
    """
    _check_gray("digits", digits)
    n, _, height, width = digits.x.shape
    for k, photograph in enumerate(photographs):
        if photograph.dtype != torch.uint8 or photograph.dim() != 3 or len(photograph) != 3:
            raise ValueError(
                f"photographs[{k}] is {photograph.dtype} {list(photograph.shape)}; use colour "
                "images [3, h, w] of torch.uint8"
            )
        if photograph.shape[1] < height or photograph.shape[2] < width:
            raise ValueError(
                f"photographs[{k}] is {list(photograph.shape)}, too small to cut {height}x{width} "
                "from; leave it out or enlarge it"
            )
    if len(photographs) == 0:
        raise ValueError("photographs is empty; use at least one image [3, h, w]")
    generator = torch.Generator("cpu").manual_seed(checks.seed(seed))
    # In numpy, where a cut of one image takes a microsecond or two.
    grounds = [photograph.cpu().numpy() for photograph in photographs]
    places = torch.rand(n, 3, generator=generator, dtype=torch.float64, device="cpu").tolist()
    cuts = np.empty((n, 3, height, width), np.uint8)
    for k, (which, down, across) in enumerate(places):
        ground = grounds[int(which * len(grounds))]
        top = int(down * (ground.shape[1] - height + 1))
        left = int(across * (ground.shape[2] - width + 1))
        cuts[k] = ground[:, top : top + height, left : left + width]
    ink = digits.x.cpu().numpy()
    x = np.maximum(cuts, ink)  # |cut - ink|, in bytes
    x -= np.minimum(cuts, ink, out=cuts)
    return Images(torch.from_numpy(x).to(digits.x.device), digits.y, digits.names)


def clouded(images: Images, ink: float = 0.35, *, seed: int = 0) -> Images:
    """Grey images, faint, before clouds: a target domain that needs no photographs.

    A pixel is ink times the image and 1 - ink times the clouds. These are noise at four scales, a
    half, a quarter, an eighth and a sixteenth of the image, each of a random strength, and reach
    from black to white.

    Args:
        images: x `[n, 1, H, W]` uint8.
        ink: what is left of the images, above 0 and at most 1.
        seed: any integer that `torch.Generator.manual_seed` takes.

    Returns:
        `Images`: x `[n, 1, H, W]` uint8, in the order of `images`, with its y and names.

    Raises:
        ValueError: `images` are not grey bytes, or `ink` is out of range.

    >>> from metanotes.data import printed_digits
    >>> clouded(printed_digits(20, ground=False))
    Images(20 images [1, 16, 16] of 10 classes)
    """
    _check_gray("images", images)
    if not 0 < ink <= 1:
        raise ValueError(f"ink={ink} must be above 0 and at most 1")
    with torch.device("cpu"):  # whatever the reader's default device
        generator = torch.Generator("cpu").manual_seed(checks.seed(seed))
        n, _, *shape = images.x.shape
        clouds = torch.zeros(n, 1, *shape)
        for cells in (2, 4, 8, 16):
            strength = torch.rand(n, 1, 1, 1, generator=generator)
            coarse = torch.rand(n, 1, cells, cells, generator=generator)
            clouds += strength * F.interpolate(coarse, size=shape, mode="bilinear")
        low, high = clouds.amin((2, 3), keepdim=True), clouds.amax((2, 3), keepdim=True)
        clouds = (clouds - low) / (high - low)
        x = (1 - ink) * clouds + ink * images.x.cpu() / 255
    return Images((255 * x).round().to(torch.uint8).to(images.x.device), images.y, images.names)


def _check_gray(name: str, images: Images) -> None:
    """Refuse what is not grey bytes.

    Raises:
        ValueError: it is not.
    """
    if images.x.dtype != torch.uint8 or images.x.dim() != 4 or images.x.shape[1] != 1:
        raise ValueError(
            f"{name}.x is {images.x.dtype} {list(images.x.shape)}; use grey images "
            "[n, 1, H, W] of torch.uint8"
        )


def photographs(folder: str | os.PathLike[str], *, largest: int | None = 512) -> list[Tensor]:
    """The pictures of a folder and its subfolders, sorted by path, to lay digits upon.

    Args:
        folder: where `.jpg`, `.jpeg` and `.png` files lie; other files are passed over.
        largest: a picture whose longer side has more pixels is reduced to this many, by Lanczos'
            filter; None keeps all pixels. The photographs of MNIST-M have 481.

    Returns:
        A list of colour images `[3, h, w]` uint8, each of its own size.

    Raises:
        ValueError: `largest` is not positive.
        FileNotFoundError: the folder is not there, or no picture is in it.
        DamagedDataError: a picture cannot be read, has more than 100 million pixels, or is a link
            to nothing. It is a ValueError.

    Source: those of MNIST-M are BSDS500's, of Arbelaez et al., "Contour Detection and Hierarchical
    Image Segmentation", IEEE Transactions on Pattern Analysis and Machine Intelligence 2011.

    >>> digits_on_leaves = blend(digits(), photographs("leaves"))           # doctest: +SKIP
    """
    from PIL import Image

    if largest is not None:
        checks.count("largest", largest)
    root = Path(folder).expanduser()
    pictures = []
    for path in _pictures(root):
        picture = decode(path.read_bytes(), str(path), REMEDY).convert("RGB")
        if largest is not None and max(picture.size) > largest:
            scale = largest / max(picture.size)
            width, height = (max(1, round(side * scale)) for side in picture.size)
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        pictures.append(torch.from_numpy(np.array(picture).transpose(2, 0, 1).copy()))
    return pictures


def _pictures(root: Path) -> list[Path]:
    """The files to read, sorted by path."""
    paths = [path for path in root.rglob("*") if path.suffix.lower() in ENDINGS]
    for path in paths:
        if path.is_symlink() and not path.exists():
            raise DamagedDataError(f"{path} is a link to nothing; {REMEDY}")
    paths = [path for path in paths if path.is_file()]  # a folder may be named like a picture
    if not paths:
        what = "has no .jpg, .jpeg or .png file" if root.is_dir() else "is not a folder"
        raise FileNotFoundError(f"{root} {what}; name a folder of photographs")
    return sorted(paths, key=lambda path: path.relative_to(root).as_posix())
