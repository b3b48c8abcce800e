"""Real sentences: short ones of Tatoeba and longer ones of news, in 23 languages and English.

They are those that the OPUS-MT test sets collect, one file of `test set, sentence, English` lines a
language. Tatoeba's are written by volunteers, short and about everyday things. Where a language has
no such file, LASER's sample of Tatoeba stands in: two files of a thousand lines.
"""

from __future__ import annotations

import gzip
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from metanotes.data.files.archives import Arrays, read_tar
from metanotes.data.files.cache import array_file, cached_arrays
from metanotes.data.files.damage import DamagedDataError, check_complete
from metanotes.data.files.folders import data_folder
from metanotes.data.text.sentence_pairs import Pairs, check_pairs, pairs_of

ARCHIVE = "mt.tar.gz"
FOLDER = "mt/"  # in the archive; or what it unpacks to
LISTS = re.compile(r"opus-mt-testsets/pairs_xx-eng/(\w+)-eng\.tsv\.gz")
SAMPLES = re.compile(r"laser-tatoeba/tatoeba\.(\w+)-eng\.(\w+)")
LARGEST = 2**28  # bytes of a language's file, unpacked
VERSION = 1  # of the array file; any change to how it is made raises it
REMEDY = "put a whole copy there by hand"


def translation(
    languages: Sequence[str] | None = None,
    *,
    part: Literal["tatoeba", "news"] = "tatoeba",
    root: str | os.PathLike[str] | None = None,
) -> dict[str, Pairs]:
    """Sentences of some languages, each with its English, as they are in the files.

    They are read from `mt/` in the data folder: from `mt.tar.gz`, or from what that unpacks to. The
    same English sentence may stand beside several of a language, and beside some of many languages:
    see `one_of_each`, `without` and `check_unseen`.

    Args:
        languages: their codes of three letters, such as "ron"; default: all that are there.
        part: `"tatoeba"`, or `"news"` (of the WMT test sets; not every language has any).
        root: the data folder; by default the one that the environment variable `METANOTES_DATA`
            names, or else `~/.cache/metanotes`.

    Returns:
        `Pairs` by language, in the order that was asked for.

    Raises:
        ValueError: a language that is not there, or that has no such pairs.
        FileNotFoundError: the data is not there. Nothing is downloaded.
        DamagedDataError: a file cannot be read. It is a ValueError.

    Source: github.com/Helsinki-NLP/OPUS-MT-testsets; Tatoeba is under CC-BY 2.0 FR, tatoeba.org.

    >>> pairs = translation(["ron", "fin"])["ron"]                          # doctest: +SKIP
    >>> pairs.source[2], pairs.english[2]                                   # doctest: +SKIP
    ('Respectă-ți promisiunea.', 'Abide by your promise.')
    """
    if part not in ("tatoeba", "news"):
        raise ValueError(f"part={part!r} must be 'tatoeba' or 'news'")
    source = _find(data_folder(root) / "mt")
    names = sorted(_packed(source)) if source.is_dir() else []
    file = array_file("mt", f"pairs-v{VERSION}", source, names)
    arrays = cached_arrays(file, lambda: _make(source))
    asked = sorted(arrays) if languages is None else list(languages)
    if strange := [name for name in asked if name not in arrays]:
        raise ValueError(f"{strange} have no pairs here; there are {', '.join(sorted(arrays))}")
    return {name: check_pairs(name, _of(arrays[name], part)) for name in asked}


def _find(folder: Path) -> Path:
    if (folder / ARCHIVE).is_file():
        return folder / ARCHIVE
    if (folder / FOLDER).is_dir():
        return folder / FOLDER
    raise FileNotFoundError(
        f"sentence pairs are not in {folder}: neither {ARCHIVE} nor {FOLDER} is there. Put the "
        "archive there, or in that folder opus-mt-testsets/pairs_xx-eng/*-eng.tsv.gz of "
        "github.com/Helsinki-NLP/OPUS-MT-testsets, or set the environment variable METANOTES_DATA "
        "to the folder that holds mt"
    )


def _packed(source: Path) -> dict[str, bytes]:
    """The files that matter, by their paths in the folder."""
    if source.is_dir():
        paths = {str(path.relative_to(source)): path for path in source.glob("*/**/*")}
        return {n: p.read_bytes() for n, p in paths.items() if p.is_file() and _matters(n)}
    files = {n.removeprefix(FOLDER): content for n, content in read_tar(source, REMEDY).items()}
    return {name: content for name, content in files.items() if _matters(name)}


def _matters(path: str) -> bool:
    return bool(LISTS.fullmatch(path) or SAMPLES.fullmatch(path))


def _make(source: Path) -> Arrays:
    """The lines `test set, sentence, English` of each language."""
    packed = _packed(source)
    texts = {
        match[1]: _text(source, name, content, zipped=True)
        for name, content in packed.items()
        if (match := LISTS.fullmatch(name))
    }
    for name in packed:
        match = SAMPLES.fullmatch(name)
        if match and match[1] == match[2] and match[1] not in texts:
            english = name.removesuffix(match[2]) + "eng"
            check_complete(source, [english] * (english not in packed), REMEDY)
            sides = (
                _text(source, path, packed[path], zipped=False).split("\n")
                for path in (name, english)
            )
            lines = ("\t".join(("tatoeba", *pair)) for pair in zip(*sides, strict=False))
            texts[match[1]] = "\n".join(lines)
    if not texts:
        raise DamagedDataError(f"{source} has no pairs of any language; {REMEDY}")
    return {name: np.frombuffer(text.encode(), dtype=np.uint8) for name, text in texts.items()}


def _text(source: Path, name: str, content: bytes, zipped: bool) -> str:
    try:
        if zipped:
            with gzip.open(io.BytesIO(content)) as file:
                content = file.read(LARGEST + 1)
            if len(content) > LARGEST:
                raise ValueError(f"unpacked it has more than {LARGEST:,} bytes")
        return content.decode("utf-8")
    except Exception as error:  # whatever damage leads the reader to
        raise DamagedDataError(f"{source}: {name} is damaged ({error}); {REMEDY}") from error


def _of(text: np.ndarray, part: str) -> Pairs:
    """The pairs of one kind of test set: lines of its name, a sentence and its English."""
    rows = (line.split("\t") for line in text.tobytes().decode("utf-8").split("\n"))
    kept = [
        row[1:]
        for row in rows
        if len(row) == 3
        and row[1].strip()
        and row[2].strip()
        and ("tatoeba" in row[0]) == (part == "tatoeba")
    ]
    return pairs_of((source, english) for source, english in kept)
