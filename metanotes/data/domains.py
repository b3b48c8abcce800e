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
    """MNIST's digits on photographs: every pixel is |photograph - digit|, channel by channel.

    They are read from `mnist_m/` in the data folder: from `mnist_m.tar.gz` or else from what that
    unpacks to, `mnist_m_train/00000000.png` and so on, 32x32, with the lists
    `mnist_m_train_labels.txt` and `mnist_m_test_labels.txt` of `name label`. Image k shows the
    digit of image k of the same split of MNIST, enlarged from 28 pixels to 32. So another `size`
    is made by Lanczos' filter, edge to edge: at 28 the strokes lie where MNIST has them (their
    edges correlate with MNIST's by 0.43; those of the middle 28 pixels by 0.38). The result is
    kept as one array file in the cache folder, which `METANOTES_CACHE` names.

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
        FileNotFoundError: the data is not there. Nothing is downloaded: its authors' page gives
            no fixed address.
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
        f"MNIST-M is not in {folder}: put {ARCHIVE} there, from the page of "
        "Ganin et al. (2016), or what it unpacks to, or set the environment variable "
        "METANOTES_DATA to the folder that holds mnist_m"
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
    y = _labels(source, listing, files[listing])
    there = sum(path.startswith(folder) and path.endswith(".png") for path in files)
    if split == "train":  # a subset of it is whole in itself
        y = y[: max(there, 1)]
    paths = [f"{folder}{k:08}.png" for k in range(len(y))]
    _check_complete(source, [path for path in paths if path not in files])
    x = np.empty((len(paths), 3, size, size), np.uint8)
    for k, path in enumerate(paths):
        x[k] = _decode(source, path, files[path], size)
    return {"x": x, "y": y}


def _labels(source: Path, listing: str, text: bytes) -> np.ndarray:
    """The labels `[n]` of a list, which names the images in their order."""
    try:
        rows = [line.split() for line in text.decode("ascii").splitlines()]
        y = np.array([DIGITS.index(label) for _, label in rows], np.int64)
        if [name for name, _ in rows] != [f"{k:08}.png" for k in range(len(rows))]:
            raise ValueError("it does not name the images in their order")
        published = MNIST_M["train" if "train" in listing else "test"]
        if len(rows) > published or (len(rows) < published and "test" in listing):
            raise ValueError(f"it names {len(rows)} images and not {published}")
    except ValueError as error:
        raise DamagedDataError(
            f"{source}: the list {listing} is damaged ({error}); put a whole copy there by hand"
        ) from error
    return y


def blend(digits: Images, photographs: Sequence[Tensor] | Tensor, *, seed: int = 0) -> Images:
    """The recipe of MNIST-M: each digit upon a random cut of a random photograph.

    A pixel is |photograph - digit|, channel by channel: the ground stays as it is, and the ink
    shows it inverted.

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
    if digits.x.dtype != torch.uint8 or digits.x.dim() != 4 or digits.x.shape[1] != 1:
        raise ValueError(
            f"digits.x is {digits.x.dtype} {list(digits.x.shape)}; use grey images "
            "[n, 1, H, W] of torch.uint8"
        )
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
    x = np.maximum(cuts, ink) - np.minimum(cuts, ink)  # |cut - ink|, in bytes
    return Images(torch.from_numpy(x).to(digits.x.device), digits.y, digits.names)
