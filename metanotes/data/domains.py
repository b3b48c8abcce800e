"""Domains: the same classes seen elsewhere, between which a classifier is adapted.

Handwritten digits (`digits`) are a source, and the same digits on photographs are the target:
MNIST-M as it was published, or made anew of any digits and any photographs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metanotes.data.folders import (
    Arrays,
    DamagedDataError,
    cache_folder,
    cached_arrays,
    data_folder,
)
from metanotes.data.images import Images
from metanotes.data.mini_imagenet import _check_complete, _decode, _unpacked
from metanotes.data.sampler import check_positive

MNIST_M = {"train": 59_001, "test": 9001}  # the published images of a split
ARCHIVE = "mnist_m.tar.gz"
VERSION = 1  # of the array files; any change to how they are made raises it
DIGITS = tuple("0123456789")


def mnist_m(
    split: Literal["train", "test"] = "train",
    *,
    size: int = 28,
    root: str | os.PathLike[str] | None = None,
) -> Images:
    """MNIST's digits on photographs: every pixel is abs(photograph - digit), channel by channel.

    They are read from `mnist_m/` in the data folder: from `mnist_m.tar.gz` or else from what that
    unpacks to, `mnist_m_train/00000000.png` and so on, 32x32, with the lists
    `mnist_m_train_labels.txt` and `mnist_m_test_labels.txt` of `name label`. Image k shows the
    digit of image k of the same split of MNIST. Another `size` than 32 is made of the whole image
    by Lanczos' filter, and the result is kept as one array file in the cache folder, which
    `METANOTES_CACHE` names (default `~/.cache/metanotes`).

    The digits in the files are 1.07 times as large as MNIST's, so that neither way to 28 pixels
    meets MNIST's scale. The whole image, where they come out at 0.94, is the nearer one: its edges
    correlate with those of MNIST's images by 0.43, and those of the middle 28 pixels by 0.38.

    The number of images says which set it is: 59 001 and 9001 are the published splits. A train
    split in which the last images are missing is taken for a subset of it, and a result on it
    says "subset".

    Args:
        split: `"train"` or `"test"`.
        size: height and width in pixels.
        root: the data folder; by default the one that the environment variable `METANOTES_DATA`
            names, or else `~/.cache/metanotes`.

    Returns:
        `Images`: x `[n, 3, size, size]` uint8, y `[n]` the digit itself, and names `"0"` to `"9"`.

    Raises:
        ValueError: there is no such split, or `size` is not positive.
        FileNotFoundError: the data is not there. Nothing is downloaded: torchvision does not have
            this set.
        DamagedDataError: the data is half-unpacked or altered, an image cannot be read, or the
            archive has paths that leave its folder. It is a ValueError.
        PermissionError: the cache folder cannot be written to.

    Source: Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 17(59), 2016,
    section 5.2.4; the photographs are those of BSDS500 (Arbelaez et al. 2011).

    >>> mnist_m("test")                                                     # doctest: +SKIP
    Images(9001 images [3, 28, 28] of 10 classes)
    """
    if split not in MNIST_M:
        raise ValueError(f"split={split!r} is unknown; use one of {', '.join(MNIST_M)}")
    check_positive(size=size)
    source = _find_mnist_m(data_folder(root) / "mnist_m")
    if source.is_file():
        fingerprint = hashlib.sha256(source.read_bytes())
    else:
        fingerprint = hashlib.sha256(str(source.resolve()).encode())
        for path in _paths(source, split):
            state = (source / path).stat()
            fingerprint.update(f"{path} {state.st_size} {state.st_mtime_ns}".encode())
    file = f"{split}-{size}-v{VERSION}-{fingerprint.hexdigest()[:12]}.npz"
    made = cached_arrays(
        cache_folder() / "mnist_m" / file, lambda: _make_mnist_m(source, split, size)
    )
    return Images(torch.from_numpy(made["x"]), torch.from_numpy(made["y"]), DIGITS)


def _find_mnist_m(folder: Path) -> Path:
    """The archive, or the folder that it was unpacked to."""
    # The archive's own folder is called mnist_m too.
    for source in (folder / ARCHIVE, folder, folder / "mnist_m"):
        if source.is_file() or (source / "mnist_m_train").is_dir():
            return source
    raise FileNotFoundError(
        f"MNIST-M is not in {folder}: put {ARCHIVE} of yaroslav.ganin.net there or what it unpacks "
        "to, or set the environment variable METANOTES_DATA to the folder that holds mnist_m; "
        "blend(digits('mnist'), photographs(...)) makes its like"
    )


def _paths(source: Path, split: str) -> list[str]:
    """The files of a split in an unpacked folder: its list, and then its images."""
    listing, folder = f"mnist_m_{split}_labels.txt", f"mnist_m_{split}"
    _check_complete(source, [path for path in [listing] if not (source / path).is_file()])
    return [listing, *sorted(f"{folder}/{path.name}" for path in (source / folder).glob("*.png"))]


def _make_mnist_m(source: Path, split: str, size: int) -> Arrays:
    """Decode every image: x `[n, 3, size, size]`, y `[n]`."""
    if source.is_file():
        files = {k.removeprefix("mnist_m/"): v for k, v in _unpacked(source).items()}
    else:
        files = {path: (source / path).read_bytes() for path in _paths(source, split)}
    listing, folder = f"mnist_m_{split}_labels.txt", f"mnist_m_{split}/"
    _check_complete(source, [path for path in [listing] if path not in files])
    y = _labels(source, listing, files[listing], MNIST_M[split])
    paths = [f"{folder}{k:08}.png" for k in range(len(y))]
    if split == "train":  # where the last images are missing it is a subset
        there = sum(path in files for path in paths)
        paths, y = paths[: max(there, 1)], y[: max(there, 1)]
    _check_complete(source, [path for path in paths if path not in files])
    x = np.empty((len(paths), 3, size, size), np.uint8)
    for k, path in enumerate(paths):
        x[k] = _decode(source, path, files[path], size)
    return {"x": x, "y": y}


def _labels(source: Path, listing: str, text: bytes, published: int) -> np.ndarray:
    """The labels `[n]` of a list, which names the images in their order."""
    try:
        rows = [line.split() for line in text.decode("ascii").splitlines()]
        if len(rows) != published:
            raise ValueError(f"it names {len(rows)} images and not {published}")
        if [name for name, _ in rows] != [f"{k:08}.png" for k in range(published)]:
            raise ValueError("it does not name the images in their order")
        return np.array([DIGITS.index(label) for _, label in rows], np.int64)
    except ValueError as error:
        raise DamagedDataError(
            f"{source}: the list {listing} is damaged ({error}); put a whole copy there by hand"
        ) from error


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
    generator = torch.Generator("cpu").manual_seed(seed)
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
        generator = torch.Generator("cpu").manual_seed(seed)
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
        DamagedDataError: a picture cannot be read. It is a ValueError.

    Source: those of MNIST-M are BSDS500's, of Arbelaez et al., "Contour Detection and Hierarchical
    Image Segmentation", IEEE Transactions on Pattern Analysis and Machine Intelligence 2011.

    >>> digits_on_leaves = blend(digits(), photographs("leaves"))           # doctest: +SKIP
    """
    from PIL import Image

    if largest is not None:
        check_positive(largest=largest)
    root = Path(folder).expanduser()
    endings = (".jpg", ".jpeg", ".png")
    paths = [p for p in root.rglob("*") if p.suffix.lower() in endings and p.is_file()]
    paths.sort(key=lambda path: path.relative_to(root).as_posix())
    if not paths:
        what = "has no .jpg, .jpeg or .png file" if root.is_dir() else "is not a folder"
        raise FileNotFoundError(f"{root} {what}; name a folder of photographs")
    pictures = []
    for path in paths:
        try:
            with Image.open(path) as file:
                picture = file.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DamagedDataError(
                f"{path} cannot be read ({error}); delete it or put a whole copy there"
            ) from error
        if largest is not None and max(picture.size) > largest:
            scale = largest / max(picture.size)
            width, height = (max(1, round(side * scale)) for side in picture.size)
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        pictures.append(torch.from_numpy(np.array(picture).transpose(2, 0, 1).copy()))
    return pictures
