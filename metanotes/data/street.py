"""Pictures of the street: house numbers and traffic signs, the targets of two adaptations.

Digits that a computer drew are adapted to the house numbers of SVHN, and signs that it drew to the
traffic signs of GTSRB. Both are read through torchvision.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from metanotes.data._torchvision import import_torchvision
from metanotes.data.folders import (
    Arrays,
    DamagedDataError,
    cache_folder,
    cached_arrays,
    data_folder,
)
from metanotes.data.images import Images
from metanotes.data.sampler import check_positive

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
    file = folder / f"{split}_32x32.mat"

    def read(datasets: Any, fetch: bool) -> Arrays:
        data = datasets.SVHN(str(folder), split=split, download=fetch)
        if size == SVHN_SIZE:
            return {"x": np.ascontiguousarray(data.data), "y": data.labels}
        return _resized(data, size)

    made = _read("svhn", folder, [file], download, read)
    names = tuple("0123456789")
    return Images(torch.from_numpy(made["x"]), torch.from_numpy(made["y"]), names)


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
        DamagedDataError: the data is half-unpacked, or an image or the list cannot be read. It is
            a ValueError.
        ImportError: torchvision is not installed.
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

    def read(datasets: Any, fetch: bool) -> Arrays:
        data = datasets.GTSRB(str(home.parent), split=split, download=fetch)
        fingerprint = hashlib.sha256(str(folder.resolve()).encode())
        for path in [*files[1:], *sorted(folder.rglob("*.ppm"))]:
            state = path.stat()
            fingerprint.update(f"{path.name} {state.st_size} {state.st_mtime_ns}".encode())
        name = f"{split}-{size}-v{VERSION}-{fingerprint.hexdigest()[:12]}.npz"
        return cached_arrays(cache_folder() / "gtsrb" / name, lambda: make(data))

    def make(data: Any) -> Arrays:
        classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
        if split == "train" and classes != [f"{k:05}" for k in range(len(SIGNS))]:
            raise ValueError(f"its folders are not 00000 to {len(SIGNS) - 1:05}")
        if len(data) not in GTSRB[split]:
            raise ValueError(f"it has {len(data)} images and not {GTSRB[split][0]}")
        arrays = _resized(data, size)
        if arrays["y"].min() < 0 or arrays["y"].max() >= len(SIGNS):
            raise ValueError("a label is no sign")
        return arrays

    made = _read("gtsrb", home, files, download, read)
    return Images(torch.from_numpy(made["x"]), torch.from_numpy(made["y"]), SIGNS)


def _check(split: str, size: int) -> None:
    if split not in ("train", "test"):
        raise ValueError(f"split={split!r} is unknown; use train or test")
    check_positive(size=size)


def _read(
    name: str,
    folder: Path,
    files: list[Path],
    download: bool,
    read: Callable[[Any, bool], Arrays],
) -> Arrays:
    """What `read(torchvision.datasets, whether to fetch)` returns; its errors say what would do."""
    missing = any(not file.exists() for file in files)
    if missing and not download:
        raise FileNotFoundError(
            f"{name} is not in {folder}: {name}(download=True) fetches it, or set the environment "
            f"variable METANOTES_DATA to the folder that holds {name}"
        )
    datasets = import_torchvision().datasets
    try:
        return read(datasets, missing)
    except PermissionError:  # the cache folder's
        raise
    except ImportError as error:
        raise ImportError("this needs scipy: pip install scipy") from error
    except Exception as error:  # whatever a damaged file leads its reader to
        if any(not file.exists() for file in files):
            raise OSError(
                f"{name} could not be downloaded to {folder} ({error}); set the environment "
                f"variable METANOTES_DATA to a folder that holds {name}"
            ) from error
        raise DamagedDataError(
            f"{name} in {folder} is damaged ({error}); delete "
            f"{' and '.join(file.name for file in files)}, and {name}(download=True) fetches it "
            "anew"
        ) from error


def _resized(data: Any, size: int) -> Arrays:
    """A data set of torchvision, (PIL image, label) by index: x `[n, 3, size, size]`, y `[n]`."""
    from PIL import Image

    x = np.empty((len(data), 3, size, size), np.uint8)
    y = np.empty(len(data), np.int64)
    for row in range(len(data)):
        image, y[row] = data[row]
        x[row] = np.asarray(image.resize((size, size), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
    return {"x": x, "y": y}
