"""Digits: the ten classes that three data sets show in three hands.

A learner that was trained on characters is tested on them, and they are the domains between which
a classifier is adapted.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from metanotes._ground import checks
from metanotes.data.files.archives import read_npz, unzipped
from metanotes.data.files.folders import data_folder
from metanotes.data.files.pictures import square
from metanotes.data.images.images import Images
from metanotes.data.images.with_torchvision import import_torchvision, read_or_fetch

# The images of a split, and the CRC-32 of their pixels and then of their labels, as bytes. Files
# of USPS carry checksums of their own, and their two forms may differ in a rounding.
CONTENTS: dict[str, dict[str, tuple[int, int | None]]] = {
    "mnist": {"train": (60_000, 0xDF6DDE61), "test": (10_000, 0x190E897B)},
    "usps": {"train": (7291, None), "test": (2007, None)},
}
SKLEARN_TRAIN = 1000  # of 1797
LARGEST = 2**28  # bytes of a file of USPS, unpacked: ten times what it has
Pair = tuple[np.ndarray, np.ndarray]  # pixels [n, H, W] and labels [n], uint8


def digits(
    name: Literal["sklearn", "mnist", "usps"] = "sklearn",
    split: Literal["train", "test"] = "train",
    *,
    size: int = 28,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> Images:
    """Handwritten digits with ink 255, all of one data set's split, in its order.

    They are resized to `size` by Lanczos' filter, edge to edge: digits of MNIST keep the margin
    that they have (4 of 28 pixels), and those of the other two fill the image.

    Args:
        name: `"sklearn"`, the 8x8 digits that scikit-learn carries, 1797 of the test set of UCI's
            optdigits: the first 1000 are the split `"train"` and the last 797 `"test"`;
            `"mnist"`, 28x28, 60 000 and 10 000, from the files in `mnist/MNIST/raw/` in the data
            folder; `"usps"`, 16x16, 7291 and 2007, from `usps/usps_train_uint8.npz` and
            `usps_test_uint8.npz` (arrays X `[n, 16, 16]` and y `[n]`, uint8) or, where that is
            not there, torchvision's `usps/usps.bz2` and `usps.t.bz2`.
        split: `"train"` or `"test"`.
        size: height and width in pixels.
        root: the data folder; by default the one that the environment variable `METANOTES_DATA`
            names, or else `~/.cache/metanotes`.
        download: whether to fetch what is missing, through torchvision.

    Returns:
        `Images`: x `[n, 1, size, size]` uint8, y `[n]` the digit itself, and names `"0"` to `"9"`.

    Raises:
        ValueError: there is no such data set or split, or `size` is not positive.
        FileNotFoundError: the data is not there.
        DamagedDataError: the data is half-written or altered. It is a ValueError.
        ImportError: scikit-learn is not installed, or torchvision, which reads MNIST and `.bz2`.
        OSError: the download failed.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
    Repository, 1998; LeCun et al., "Gradient-based learning applied to document recognition",
    Proceedings of the IEEE 1998; Hull, "A database for handwritten text recognition research",
    IEEE Transactions on Pattern Analysis and Machine Intelligence 1994.

    >>> digits("sklearn", "test")
    Images(797 images [1, 28, 28] of 10 classes)
    """
    if name not in ("sklearn", *CONTENTS):
        raise ValueError(f"name={name!r} is unknown; use one of sklearn, {', '.join(CONTENTS)}")
    if split not in ("train", "test"):
        raise ValueError(f"split={split!r} is unknown; use train or test")
    checks.count("size", size)
    if name == "sklearn":
        x, y = _sklearn(split)
    else:
        x, y = _from_files(name, data_folder(root) / name, split, download)
    images = torch.from_numpy(_resized(x, size)).unsqueeze(1)
    return Images(images, torch.from_numpy(y.astype(np.int64)), tuple("0123456789"))


def _sklearn(split: str) -> Pair:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("this needs scikit-learn: pip install scikit-learn") from error
    part = slice(SKLEARN_TRAIN) if split == "train" else slice(SKLEARN_TRAIN, None)
    data = load_digits()  # pixels in 0..16
    return (data.images[part] * (255 / 16)).round().astype(np.uint8), data.target[part]


def _from_files(name: str, folder: Path, split: str, download: bool) -> Pair:
    """A split of MNIST or USPS, compared with `CONTENTS`."""
    npz = folder / f"usps_{split}_uint8.npz"
    if name == "mnist":  # torchvision asks for all four, whatever the split
        parts, kinds = ("train", "t10k"), ("images-idx3", "labels-idx1")
        files = [folder / f"MNIST/raw/{part}-{kind}-ubyte" for part in parts for kind in kinds]
    elif npz.is_file():
        files = [npz]
    else:
        files = [folder / ("usps.bz2" if split == "train" else "usps.t.bz2")]

    def open_set(datasets: Any, download: bool) -> Any:
        return getattr(datasets, name.upper())(str(folder), split == "train", download=download)

    def read() -> Pair:
        if files == [npz]:
            arrays = read_npz(npz, limit=LARGEST)
            if missing := {"X", "y"} - arrays.keys():
                raise ValueError(f"it has no array {min(missing)}")
            pair = arrays["X"], arrays["y"]
        else:
            if name == "usps":
                unzipped(files[0], LARGEST)  # torchvision would unzip a bomb
            data = open_set(import_torchvision().datasets, download=False)
            pair = np.asarray(data.data), np.asarray(data.targets, np.uint8)
        _check(name, split, *pair)
        return pair

    return read_or_fetch(
        name,
        f"digits({name!r}, download=True)",
        folder,
        files,
        download=download,
        fetch=lambda datasets: open_set(datasets, download=True),
        read=read,
    )


def _check(name: str, split: str, x: np.ndarray, y: np.ndarray) -> None:
    count, crc = CONTENTS[name][split]
    if x.dtype != np.uint8 or x.ndim != 3 or len(x) != count or y.shape != (count,):
        raise ValueError(f"{x.dtype} {x.shape} are not {count} images of bytes with their labels")
    if y.min() < 0 or y.max() > 9:
        raise ValueError("a label is no digit")
    if crc is not None and zlib.crc32(y.tobytes(), zlib.crc32(x.tobytes())) != crc:
        raise ValueError("its checksum differs")


def _resized(x: np.ndarray, size: int) -> np.ndarray:
    """Images `[n, H, W]` as `[n, size, size]`."""
    from PIL import Image

    if x.shape[1:] == (size, size):
        return x
    return np.stack([square(Image.fromarray(image), size) for image in x])
