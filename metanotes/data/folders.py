"""Where data is read from, and where the arrays that are made of it are kept.

`METANOTES_DATA` names the folder that data sets are read from and downloaded to, and
`METANOTES_CACHE` the one that array files are written to. Each is `~/.cache/metanotes` unless set,
so that a data folder may be read-only or shared.

An array file is written under a temporary name and then renamed, so that a half-written one is
never seen under its real name. It carries a checksum of its contents, so that a damaged one is
never used.
"""

from __future__ import annotations

import hashlib
import os
import uuid
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]
_DEFAULT = "~/.cache/metanotes"


class DamagedDataError(ValueError):
    """A data set that is there, but is half-unpacked or altered.

    >>> issubclass(DamagedDataError, ValueError)
    True
    """


def data_folder(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder that data sets are read from: `root`, or else `METANOTES_DATA`.

    >>> data_folder("data").as_posix()
    'data'
    """
    return Path(root or os.environ.get("METANOTES_DATA") or _DEFAULT).expanduser()


def cache_folder(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder that array files are kept in: `root`, or else `METANOTES_CACHE`.

    >>> cache_folder("cache").as_posix()
    'cache'
    """
    return Path(root or os.environ.get("METANOTES_CACHE") or _DEFAULT).expanduser()


def cached_arrays(path: Path, make: Callable[[], Arrays]) -> Arrays:
    """What the array file holds; where there is none that is whole, what `make` returns, kept.

    Args:
        path: the file. Its name says what its contents were made of, by a version or a
            fingerprint: a file of that name that is whole is used as it is.
        make: makes the arrays.

    Raises:
        PermissionError: the file is not there and its folder cannot be written to.
    """
    if path.exists():
        try:
            return _read(path)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            warnings.warn(f"{path} is damaged ({error}) and is made anew", stacklevel=3)
    temporary = _temporary_beside(path)
    try:
        arrays = make()
        with open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, sha256=_checksum(arrays), **arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return arrays


def _temporary_beside(path: Path) -> Path:
    """An empty file in the folder of `path`: the folder is found to be writable, or refused."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise PermissionError(
            f"the cache folder {path.parent} cannot be written to ({error.strerror}); set the "
            "environment variable METANOTES_CACHE (default ~/.cache/metanotes) to a folder that can"
        ) from error
    return temporary


def _read(path: Path) -> Arrays:
    with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    expected = arrays.pop("sha256")
    if not np.array_equal(expected, _checksum(arrays)):
        raise ValueError("its checksum differs")
    return arrays


def _checksum(arrays: Arrays) -> np.ndarray:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return np.frombuffer(digest.digest(), dtype=np.uint8)
