"""MNIST-M: MNIST's digits on photographs, the target of many domain adaptations.

`blend(digits(...), photographs(...))` makes its like.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from metanotes._ground import checks
from metanotes.data.files.archives import Arrays, read_tar
from metanotes.data.files.cache import array_file, cached_arrays
from metanotes.data.files.damage import DamagedDataError, check_complete
from metanotes.data.files.folders import data_folder
from metanotes.data.files.pictures import decode, square
from metanotes.data.images.images import Images

MNIST_M = {"train": 59_001, "test": 9001}  # the published images of a split
ARCHIVE = "mnist_m.tar.gz"
LARGEST = 2**30  # bytes of the archive, unpacked: several times what it has
VERSION = 1  # of the array files; any change to how they are made raises it
DIGITS = tuple("0123456789")
REMEDY = "put a whole copy there by hand"


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
    checks.count("size", size)
    source = _find(data_folder(root) / "mnist_m")
    paths = [] if source.is_file() else _paths(source, split)
    file = array_file("mnist_m", f"{split}-{size}-v{VERSION}", source, paths)
    arrays = cached_arrays(file, lambda: _make(source, split, size))
    return Images(torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"]), DIGITS)


def _find(folder: Path) -> Path:
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
    check_complete(source, [path for path in [listing] if not (source / path).is_file()], REMEDY)
    images = [path.name for path in (source / folder).glob("*.png") if path.is_file()]
    return [listing, *sorted(f"{folder}/{name}" for name in images)]


def _make(source: Path, split: str, size: int) -> Arrays:
    """Decode every image: x `[n, 3, size, size]`, y `[n]`."""
    if source.is_file():
        unpacked = read_tar(source, REMEDY, limit=LARGEST)
        files = {path.removeprefix("mnist_m/"): unpacked[path] for path in unpacked}
    else:
        files = {path: (source / path).read_bytes() for path in _paths(source, split)}
    listing, folder = f"mnist_m_{split}_labels.txt", f"mnist_m_{split}/"
    check_complete(source, [path for path in [listing] if path not in files], REMEDY)
    y = _labels(source, listing, files[listing], MNIST_M[split])
    paths = [f"{folder}{k:08}.png" for k in range(len(y))]
    if split == "train":  # where the last images are missing it is a subset
        there = sum(path in files for path in paths)
        paths, y = paths[: max(there, 1)], y[: max(there, 1)]
    check_complete(source, [path for path in paths if path not in files], REMEDY)
    x = np.empty((len(paths), 3, size, size), np.uint8)
    for k, path in enumerate(paths):
        picture = decode(files[path], f"{source}: {path}", REMEDY)
        x[k] = square(picture.convert("RGB"), size)
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
            f"{source}: the list {listing} is damaged ({error}); {REMEDY}"
        ) from error
