"""Omniglot: 1623 handwritten characters of 50 alphabets, each drawn once by 20 people.

Published figures use three different splits of it, and are not comparable across them:
`PROTOCOLS` names them.
"""

from __future__ import annotations

import os
import random
import zlib
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from metanotes.data.files.archives import Arrays, read_zip
from metanotes.data.files.cache import array_file, cached_arrays
from metanotes.data.files.damage import DamagedDataError, first_few
from metanotes.data.files.folders import data_folder
from metanotes.data.files.pictures import decode, square
from metanotes.data.images.images import Images
from metanotes.data.images.omniglot_contents import CONTENTS
from metanotes.data.images.with_torchvision import import_torchvision

PROTOCOLS = {
    "alphabets": ("background", "evaluation"),
    "1200/423": ("train", "test"),
    "vinyals": ("train", "val", "trainval", "test"),
}
VERSION = 1  # of the array files; any change to how they are made raises it
DRAWINGS = 20
LARGEST = 2**27  # bytes of an archive, unpacked: many times what it has
REMEDY = "omniglot(..., download=True) fetches it anew"


def omniglot(
    split: str = "background",
    *,
    protocol: Literal["alphabets", "1200/423", "vinyals"] = "alphabets",
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> Images:
    """Handwritten characters, 20 drawings each, at 28x28 with ink 255.

    The archives `images_background.zip` and `images_evaluation.zip`, or the folders that they
    unpack to, are read from `omniglot-py/` in the data folder, inverted and resized from 105x105
    by Lanczos' filter, as MAML's code does. The result is kept as one array file an archive in the
    cache folder, which `METANOTES_CACHE` names (default `~/.cache/metanotes`).

    Args:
        split: with `"alphabets"`: `"background"` (30 alphabets, 964 characters) or `"evaluation"`
            (20 and 659); with `"1200/423"`: `"train"` or `"test"`, of so many characters; with
            `"vinyals"`: `"train"`, `"val"`, `"trainval"` or `"test"` (1028, 172, 1200, 423).
        protocol: `"alphabets"` is the split of the data set's authors, and the hardest;
            `"1200/423"` mixes all alphabets, as Reptile does, by a shuffle with seed 0 of the
            sorted names, so that every machine has the same (the published ones depend on the
            order in which a file system lists its folders); `"vinyals"` reads the lists of the
            Matching Networks experiments from `omniglot-py/splits_vinyals/` in the data folder.
            Their rotations are left to `episodes(..., rotations="classes")`.
        root: the data folder; by default the one that the environment variable `METANOTES_DATA`
            names, or else `~/.cache/metanotes`.
        download: whether to fetch what is missing or damaged, through torchvision.

    Returns:
        `Images`: x `[n, 1, 28, 28]` uint8, y `[n]`, and names `"Alphabet/characterNN"`, sorted.

    Raises:
        ValueError: `protocol` has no such split.
        FileNotFoundError: the data or a list is not there.
        DamagedDataError: the data is half-unpacked or altered, or a zip has paths that leave its
            folder. It is a ValueError.
        PermissionError: the cache folder cannot be written to.

    Source: Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through probabilistic
    program induction", Science 2015; the splits: Vinyals et al., "Matching Networks for One Shot
    Learning", NeurIPS 2016; Nichol, Achiam and Schulman, "On First-Order Meta-Learning
    Algorithms", 2018.

    >>> images = omniglot("test", protocol="1200/423")                      # doctest: +SKIP
    >>> len(images.names), images.x.shape                                   # doctest: +SKIP
    (423, torch.Size([8460, 1, 28, 28]))
    """
    splits = PROTOCOLS.get(protocol)
    if splits is None:
        raise ValueError(f"protocol={protocol!r} is unknown; use one of {', '.join(PROTOCOLS)}")
    if split not in splits:
        raise ValueError(f"protocol {protocol!r} has no split={split!r}; use {' or '.join(splits)}")
    folder = data_folder(root) / "omniglot-py"
    chosen = _vinyals(folder, split) if protocol == "vinyals" else None
    archives = [f"images_{split}"] if protocol == "alphabets" else list(CONTENTS)
    parts = [_load(folder, archive, download) for archive in archives]

    x = np.concatenate([part["x"] for part in parts])  # [classes, 20, 28, 28]
    names = [str(name) for part in parts for name in part["names"]]
    if protocol == "1200/423":
        chosen = sorted(names)
        random.Random(0).shuffle(chosen)
        chosen = chosen[:1200] if split == "train" else chosen[1200:]
    row = {name: i for i, name in enumerate(names)}
    kept = tuple(sorted(names if chosen is None else chosen))
    images = torch.from_numpy(x[[row[name] for name in kept]]).flatten(0, 1).unsqueeze(1)
    return Images(images, torch.from_numpy(np.arange(len(kept)).repeat(DRAWINGS)), kept)


def _vinyals(folder: Path, split: str) -> list[str]:
    """The characters of a list of lines `Alphabet/characterNN/rotNNN`."""
    path = folder / "splits_vinyals" / f"{split}.txt"
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path}; put the lists train.txt, val.txt, trainval.txt and test.txt of "
            "https://github.com/jakesnell/prototypical-networks (data/omniglot/splits/vinyals) "
            "into that folder"
        )
    known = {name for archive in CONTENTS for names in _characters(archive) for name in names}
    characters = {line.rsplit("/", 1)[0] for line in path.read_text().split()}
    if not characters or not characters <= known:
        what = f"{min(characters - known)!r} is no character" if characters else "it is empty"
        raise DamagedDataError(f"{path} is altered: {what}; put the original in its place")
    return sorted(characters)


def _characters(archive: str) -> list[list[str]]:
    """The names of an archive's characters, an alphabet a list."""
    return [
        [f"{alphabet}/character{i + 1:02}" for i in range(count)]
        for alphabet, (count, _) in CONTENTS[archive].items()
    ]


def _load(folder: Path, archive: str, download: bool) -> Arrays:
    """The arrays of one archive, from the cache, the data folder or the network."""
    try:
        return _load_present(folder, archive)
    except (FileNotFoundError, DamagedDataError):
        if not download:
            raise
    try:
        import_torchvision().datasets.Omniglot(
            str(folder.parent), background=archive == "images_background", download=True
        )
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"Omniglot could not be downloaded to {folder} ({error}); put {archive}.zip there by "
            "hand, or set the environment variable METANOTES_DATA to a folder that holds it"
        ) from error
    return _load_present(folder, archive)


def _load_present(folder: Path, archive: str) -> Arrays:
    packed, unpacked = folder / f"{archive}.zip", folder / archive
    if not (packed.is_file() or unpacked.is_dir()):
        raise FileNotFoundError(
            f"Omniglot is not in {folder}: neither {packed.name} nor the folder {archive} is "
            "there; omniglot(..., download=True) fetches it, or set the environment variable "
            "METANOTES_DATA to the folder that holds omniglot-py"
        )
    source = packed if packed.is_file() else unpacked
    paths = [] if source == packed else _drawings(source)
    file = array_file("omniglot", f"{archive}-v{VERSION}", source, paths)
    return cached_arrays(file, lambda: _make(source, archive))


def _drawings(folder: Path) -> list[str]:
    """The paths of the drawings in a folder, sorted."""
    files = [path for path in folder.rglob("*.png") if path.is_file()]
    return sorted(path.relative_to(folder).as_posix() for path in files)


def _make(source: Path, archive: str) -> Arrays:
    """Check and shrink every drawing: x `[classes, 20, 28, 28]`, names `[classes]`."""
    if source.is_dir():
        files = {path: (source / path).read_bytes() for path in _drawings(source)}
    else:
        files = read_zip(source, REMEDY, prefix=f"{archive}/", ending=".png", limit=LARGEST)
    _check_drawings(source, archive, files)
    x, sums = [], dict.fromkeys(CONTENTS[archive], 0)
    for name in sorted(files):
        drawing = decode(files[name], f"{source}: {name}", REMEDY)
        bits = np.packbits(np.asarray(drawing.convert("1"))).tobytes()
        alphabet = name.split("/")[0]
        sums[alphabet] = zlib.crc32(bits, sums[alphabet])
        x.append(square(drawing.convert("L").point(lambda value: 255 - value), 28))
    altered = [name for name, (_, crc) in CONTENTS[archive].items() if sums[name] != crc]
    if altered:
        raise DamagedDataError(f"{source} is altered: drawings of {', '.join(altered)}; {REMEDY}")
    names = sorted({name.rsplit("/", 1)[0] for name in files})
    return {"x": np.stack(x).reshape(len(names), DRAWINGS, 28, 28), "names": np.array(names)}


def _check_drawings(source: Path, archive: str, files: dict[str, bytes]) -> None:
    """Refuse a copy in which a character or a drawing is missing or is too many."""
    drawings = Counter(name.rsplit("/", 1)[0] for name in files)
    wrong = []
    for characters in _characters(archive):
        counts = {name: drawings.pop(name, 0) for name in characters}
        if not any(counts.values()):
            wrong.append(f"the alphabet {characters[0].split('/')[0]} is missing")
            continue
        wrong += [
            f"{name} has {count} of {DRAWINGS} drawings"
            for name, count in counts.items()
            if count != DRAWINGS
        ]
    wrong += [f"{name} does not belong there" for name in drawings]
    if wrong:
        raise DamagedDataError(f"{source} is not whole: {first_few(wrong)}; {REMEDY}")
