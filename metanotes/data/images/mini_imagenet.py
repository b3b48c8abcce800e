"""mini-ImageNet: 100 classes of photographs in 64 for training, 16 for validation, 20 for testing.

The classes are those of Ravi and Larochelle, whose lists say which image belongs to which class.
The whole set has 600 images a class; the subset has fewer, and a result on it says "subset".
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from metanotes._ground import checks
from metanotes.data.files.archives import Arrays, leaves_its_folder, read_tar
from metanotes.data.files.cache import array_file, cached_arrays
from metanotes.data.files.damage import DamagedDataError, check_complete
from metanotes.data.files.folders import data_folder
from metanotes.data.files.pictures import decode, square
from metanotes.data.images.images import Images

# The classes of a split, and the images of each class.
FULL = {"train": (64, 600), "val": (16, 600), "test": (20, 600)}
SUBSET = {"train": (64, 150), "val": (16, 120), "test": (20, 150)}
ARCHIVE = "mini-imagenet-subset.tar.gz"
LARGEST = 2**29  # bytes of the archive, unpacked: several times what it has
VERSION = 1  # of the array files; any change to how they are made raises it
REMEDY = "put a whole copy there by hand"


class Layout(NamedTuple):
    """Where a split's list (of `filename,label`) and its images lie, and how many there are."""

    listing: str
    image: str  # with {label} and {filename} to fill in
    counts: tuple[int, int]


def mini_imagenet(
    split: Literal["train", "val", "test"] = "train",
    *,
    size: int = 84,
    root: str | os.PathLike[str] | None = None,
) -> Images:
    """Photographs of the classes of one split: all of mini-ImageNet, or the subset of it.

    They are read from `mini-imagenet/` in the data folder. The whole set is `images/*.jpg` beside
    `train.csv`, `val.csv` and `test.csv`, the lists of Ravi and Larochelle. Where there is no
    `images` and no such list, the subset is read, from `mini-imagenet-subset.tar.gz` or else from
    what that unpacks to: `train/<class>/*.jpg` and so on, with their lists in `splits/`. Images of
    another size are resized by Lanczos' filter, as MAML's code does, without regard to their
    proportions. The result is kept as one array file in the cache folder, which `METANOTES_CACHE`
    names (default `~/.cache/metanotes`).

    The number of images says which set it is: 38 400, 9600 and 12 000 in the three splits of the
    whole set (600 a class), and 9600, 1920 and 3000 in the subset (150, 120 and 150 a class). A
    result on the subset says "subset".

    Args:
        split: `"train"`, `"val"` or `"test"`; they share no class.
        size: height and width in pixels.
        root: the data folder; by default the one that the environment variable `METANOTES_DATA`
            names, or else `~/.cache/metanotes`.

    Returns:
        `Images`: x `[n, 3, size, size]` uint8, y `[n]`, and as names the classes' WordNet ids,
        such as `"n01532829"`, sorted. The images of a class are sorted by file name.

    Raises:
        ValueError: there is no such split, or `size` is not positive.
        FileNotFoundError: the data or a list is not there. Nothing is downloaded: ImageNet's
            terms allow research that is not commercial, to those who have agreed to them.
        DamagedDataError: the data is half-unpacked or altered, an image cannot be read, or the
            archive or a list has paths that leave its folder. It is a ValueError.
        PermissionError: the cache folder cannot be written to.

    Source: Vinyals et al., "Matching Networks for One Shot Learning", NeurIPS 2016; the split:
    Ravi and Larochelle, "Optimization as a Model for Few-Shot Learning", ICLR 2017.

    >>> images = mini_imagenet("val", size=42)                              # doctest: +SKIP
    >>> images                                 # 120 a class: the subset    # doctest: +SKIP
    Images(1920 images [3, 42, 42] of 16 classes)
    """
    if split not in FULL:
        raise ValueError(f"split={split!r} is unknown; use one of {', '.join(FULL)}")
    checks.count("size", size)
    source, layout = _find(data_folder(root) / "mini-imagenet", split)
    paths: list[str] = []
    if source.is_dir():
        paths = list(_listed(source, layout, (source / layout.listing).read_bytes()))
        check_complete(source, [path for path in paths if not (source / path).is_file()], REMEDY)
        paths.append(layout.listing)
    file = array_file("mini-imagenet", f"{split}-{size}-v{VERSION}", source, paths)
    arrays = cached_arrays(file, lambda: _make(source, layout, size))
    names = tuple(str(name) for name in arrays["names"])
    return Images(torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"]), names)


def _find(folder: Path, split: str) -> tuple[Path, Layout]:
    """The folder or archive to read, and how things lie in it."""
    full = Layout(f"{split}.csv", "images/{filename}", FULL[split])
    subset = Layout(f"splits/subset_{split}.csv", split + "/{label}/{filename}", SUBSET[split])
    # Half of the whole set is an error: the subset never stands in for it in silence.
    whole = (folder / "images").is_dir() or (folder / full.listing).is_file()
    layout = full if whole else subset
    if not whole and (folder / ARCHIVE).is_file():
        return folder / ARCHIVE, layout
    if not (folder / layout.listing).is_file():
        raise FileNotFoundError(
            f"mini-ImageNet is not in {folder}: {layout.listing} is not there. ImageNet's terms "
            f"allow no automatic download; put {ARCHIVE} there or what it unpacks to, or else "
            "images/*.jpg with train.csv, val.csv and test.csv of "
            "github.com/twitter/meta-learning-lstm, or set the environment variable "
            "METANOTES_DATA to the folder that holds mini-imagenet"
        )
    return folder, layout


def _listed(source: Path, layout: Layout, listing: bytes) -> dict[str, str]:
    """Path -> class of every image of the list, sorted by class and then by file name."""
    try:
        rows = csv.DictReader(io.StringIO(listing.decode("utf-8-sig")))
        images = sorted({(row["label"], row["filename"]) for row in rows})
        if any("/" in text or leaves_its_folder(text) for row in images for text in row):
            raise ValueError("a name in it leaves the folder")
        classes, each = layout.counts
        counts = Counter(label for label, _ in images)
        if len(counts) != classes or set(counts.values()) != {each}:
            raise ValueError(f"it does not list {classes} classes of {each} images")
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise DamagedDataError(
            f"{source}: the list {layout.listing} is damaged ({error}); {REMEDY}"
        ) from error
    return {layout.image.format(label=label, filename=name): label for label, name in images}


def _make(source: Path, layout: Layout, size: int) -> Arrays:
    """Decode every image: x `[n, 3, size, size]`, y `[n]`, names `[classes]`."""
    if source.is_file():
        files = read_tar(source, REMEDY, limit=LARGEST)
        check_complete(source, [path for path in [layout.listing] if path not in files], REMEDY)
        paths = _listed(source, layout, files[layout.listing])
        check_complete(source, [path for path in paths if path not in files], REMEDY)
        contents = (files[path] for path in paths)
    else:
        paths = _listed(source, layout, (source / layout.listing).read_bytes())
        contents = ((source / path).read_bytes() for path in paths)
    x = np.empty((len(paths), 3, size, size), np.uint8)
    for row, (path, jpeg) in enumerate(zip(paths, contents, strict=True)):
        x[row] = square(decode(jpeg, f"{source}: {path}", REMEDY).convert("RGB"), size)
    names, y = np.unique(list(paths.values()), return_inverse=True)
    return {"x": x, "y": y.astype(np.int64), "names": names}
