"""Pictures of the street: house numbers and traffic signs, the targets of two adaptations.

Digits that a computer drew are adapted to the house numbers of SVHN, and signs that it drew to the
traffic signs of GTSRB. torchvision downloads both.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from metanotes._ground import checks
from metanotes.data.files.archives import Arrays, leaves_its_folder
from metanotes.data.files.cache import array_file, cached_arrays
from metanotes.data.files.folders import data_folder
from metanotes.data.files.pictures import decode, square
from metanotes.data.images.images import Images
from metanotes.data.images.with_torchvision import (
    fetched_anew,
    import_torchvision,
    read_or_fetch,
)

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 1  # of the array files; any change to how they are made raises it
SVHN_SIZE = 32
# The images of a split: torchvision's download, and all images that were ever published for it.
GTSRB = {"train": (26_640, 39_209), "test": (12_630,)}
SIGNS = (
    *(f"speed limit {speed}" for speed in (20, 30, 50, 60, 70, 80)),
    *("end of speed limit 80", "speed limit 100", "speed limit 120", "no passing"),
    *("no passing for lorries", "right of way at the next crossing", "priority road", "yield"),
    *("stop", "no vehicles", "no lorries", "no entry", "general caution", "curve to the left"),
    *("curve to the right", "double curve", "bumpy road", "slippery road"),
    *("road narrows on the right", "road work", "traffic signals", "pedestrians", "children"),
    *("bicycles", "snow or ice", "wild animals", "end of all limits", "turn right", "turn left"),
    *("straight ahead", "straight or right", "straight or left", "keep right", "keep left"),
    *("roundabout", "end of no passing", "end of no passing for lorries"),
)


def svhn(
    split: Literal["train", "test"] = "train",
    *,
    size: int = SVHN_SIZE,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> Images:
    """House numbers, cut out around one digit each; its neighbours are often in sight.

    They are read from `svhn/train_32x32.mat` and `test_32x32.mat` in the data folder, 73 257 and
    26 032 images, in their order. torchvision compares the files with their MD5.

    Args:
        split: `"train"` or `"test"`.
        size: height and width in pixels; from 32 they are resized by Lanczos' filter.
        root: the data folder; by default the one that the environment variable `METANOTES_DATA`
            names, or else `~/.cache/metanotes`.
        download: whether to fetch what is missing, through torchvision.

    Returns:
        `Images`: x `[n, 3, size, size]` uint8, y `[n]` the digit itself (the files say 10 for 0,
        and torchvision puts it right), and names `"0"` to `"9"`.

    Raises:
        ValueError: there is no such split, or `size` is not positive.
        FileNotFoundError: the data is not there.
        DamagedDataError: the data is half-written or altered. It is a ValueError.
        ImportError: torchvision or scipy is not installed.
        OSError: the download failed.

    Source: Netzer et al., "Reading Digits in Natural Images with Unsupervised Feature Learning",
    NeurIPS workshop on deep learning 2011.

    >>> svhn("test", download=True)                                         # doctest: +SKIP
    Images(26032 images [3, 32, 32] of 10 classes)
    """
    _check(split, size)
    folder = data_folder(root) / "svhn"

    def open_set(datasets: Any, download: bool) -> Any:
        return datasets.SVHN(str(folder), split=split, download=download)

    def read() -> Arrays:
        from PIL import Image

        try:
            data = open_set(import_torchvision().datasets, download=False)
        except ModuleNotFoundError as error:
            raise ImportError("this needs scipy: pip install scipy") from error
        if size == SVHN_SIZE:
            return {"x": np.ascontiguousarray(data.data), "y": data.labels}
        pictures = (Image.fromarray(image.transpose(1, 2, 0)) for image in data.data)
        return {"x": _squares(pictures, len(data.data), size), "y": data.labels}

    arrays = read_or_fetch(
        "svhn",
        "svhn(download=True)",
        folder,
        [folder / f"{split}_32x32.mat"],
        download=download,
        fetch=lambda datasets: open_set(datasets, download=True),
        read=read,
    )
    names = tuple("0123456789")
    return Images(torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"]), names)


def gtsrb(
    split: Literal["train", "test"] = "train",
    *,
    size: int = 40,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> Images:
    """Traffic signs of Germany, each image a sign with a margin of about a tenth around it.

    They are read from `gtsrb/GTSRB/Training/00000/*.ppm` to `00042/*.ppm`, or from
    `gtsrb/GTSRB/Final_Test/Images/*.ppm` and the list `gtsrb/GT-final_test.csv`, where torchvision
    unpacks its download. The files have 15 to 250 pixels a side and are resized by Lanczos' filter,
    without regard to their proportions. The result is kept as one array file in the cache folder,
    which `METANOTES_CACHE` names (default `~/.cache/metanotes`).

    torchvision's download has 26 640 images to train on and 12 630 to test on. The whole training
    set has 39 209; put into the same folders, it is read too.

    Args:
        split: `"train"`, where the images follow each other class by class and up to 30 in a row
            show one and the same sign; or `"test"`.
        size: height and width in pixels.
        root: the data folder; by default the one that the environment variable `METANOTES_DATA`
            names, or else `~/.cache/metanotes`.
        download: whether to fetch what is missing, through torchvision.

    Returns:
        `Images`: x `[n, 3, size, size]` uint8, y `[n]`, and the names of the 43 signs, such as
        `"speed limit 20"`, in the order of their published numbers.

    Raises:
        ValueError: there is no such split, or `size` is not positive.
        FileNotFoundError: the data is not there.
        DamagedDataError: the data is half-unpacked, an image or the list cannot be read, or an
            image has more than 100 million pixels. It is a ValueError.
        ImportError: torchvision is not installed, and something is to be fetched.
        OSError: the download failed.
        PermissionError: the cache folder cannot be written to.

    Source: Stallkamp et al., "Man vs. computer: Benchmarking machine learning algorithms for
    traffic sign recognition", Neural Networks 2012.

    >>> gtsrb("test", download=True)                                        # doctest: +SKIP
    Images(12630 images [3, 40, 40] of 43 classes)
    """
    _check(split, size)
    home = data_folder(root) / "gtsrb"
    folder = home / "GTSRB" / ("Training" if split == "train" else "Final_Test")
    files = [folder] if split == "train" else [folder, home / "GT-final_test.csv"]
    call = "gtsrb(download=True)"

    def read() -> Arrays:
        images = [path for path in folder.rglob("*.ppm") if path.is_file()]
        paths = sorted(path.relative_to(home).as_posix() for path in images)
        listing = [path.relative_to(home).as_posix() for path in files[1:]]
        name = f"{split}-{size}-v{VERSION}"
        return cached_arrays(array_file("gtsrb", name, home, [*listing, *paths]), make)

    def make() -> Arrays:
        labels = _listed_signs(folder, files[1]) if split == "test" else _sorted_signs(folder)
        if len(labels) not in GTSRB[split]:
            raise ValueError(f"it has {len(labels)} images and not {GTSRB[split][0]}")
        y = np.array(list(labels.values()), np.int64)
        if y.min() < 0 or y.max() >= len(SIGNS):
            raise ValueError("a label is no sign")
        remedy = fetched_anew(files, call)
        pictures = (decode(path.read_bytes(), str(path), remedy).convert("RGB") for path in labels)
        return {"x": _squares(pictures, len(y), size), "y": y}

    arrays = read_or_fetch(
        "gtsrb",
        call,
        home,
        files,
        download=download,
        fetch=lambda datasets: datasets.GTSRB(str(home.parent), split=split, download=True),
        read=read,
    )
    return Images(torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"]), SIGNS)


def _sorted_signs(folder: Path) -> dict[Path, int]:
    """The images of the train split with their labels, which are the names of their folders."""
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if classes != [f"{k:05}" for k in range(len(SIGNS))]:
        raise ValueError(f"its folders are not 00000 to {len(SIGNS) - 1:05}")
    return {
        path: int(name)
        for name in classes
        for path in sorted((folder / name).rglob("*.ppm"))
        if path.is_file()
    }


def _listed_signs(folder: Path, listing: Path) -> dict[Path, int]:
    """The images of the test split with their labels, in the order of its list."""
    with open(listing, newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file, delimiter=";", skipinitialspace=True)
        labels = {folder / "Images" / row["Filename"]: int(row["ClassId"]) for row in rows}
    if any(leaves_its_folder(path.relative_to(folder).as_posix()) for path in labels):
        raise ValueError("a name in its list leaves the folder")
    missing = [path.name for path in labels if not path.is_file()]
    if missing:
        raise ValueError(f"{missing[0]} is not there")
    return labels


def _check(split: str, size: int) -> None:
    if split not in ("train", "test"):
        raise ValueError(f"split={split!r} is unknown; use train or test")
    checks.count("size", size)


def _squares(pictures: Iterable[Image], n: int, size: int) -> np.ndarray:
    """Colour pictures as one array, `[n, 3, size, size]` uint8."""
    x = np.empty((n, 3, size, size), np.uint8)
    for row, picture in enumerate(pictures):
        x[row] = square(picture, size)
    return x
