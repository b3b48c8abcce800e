"""Arrays that take long to make: made once and kept in a file, which is whole or not used.

The file appears under its name when it is whole, and carries a checksum of its contents, so that a
damaged one is never used.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from metanotes._ground.files import replacing
from metanotes.data.files.archives import Arrays, read_npz
from metanotes.data.files.fingerprints import fingerprint
from metanotes.data.files.folders import cache_folder


def array_file(folder: str, name: str, source: Path, files: Iterable[str] = ()) -> Path:
    """The array file that is made of this source as it is now, in the cache folder.

    Args:
        folder: the data set's folder in the cache folder.
        name: which part of it is made and how, with the version of the code that makes it.
        source, files: as `fingerprint` takes them.
    """
    return cache_folder() / folder / f"{name}-{fingerprint(source, files)}.npz"


def cached_arrays(path: Path, make: Callable[[], Arrays]) -> Arrays:
    """What the array file holds; where there is none that is whole, what `make` returns, kept.

    Args:
        path: the file. Its name says what its contents were made of, by a version or a
            fingerprint: a file of that name that is whole is used as it is.
        make: makes the arrays.

    Raises:
        PermissionError: the file is not there and its folder cannot be written to, which is found
            out before any work; or the disk is full.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "squares-v1.npz"
    ...     _ = cached_arrays(path, lambda: {"x": np.arange(4) ** 2})
    ...     cached_arrays(path, lambda: {})
    {'x': array([0, 1, 4, 9])}
    """
    if path.exists():
        try:
            return _read(path)
        except Exception as error:  # whatever damage leads the reader to
            warnings.warn(f"{path} is damaged ({error}) and is made anew", stacklevel=3)
    folder = Path(os.path.realpath(path)).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _unwritable(folder, error) from error
    arrays = make()
    try:
        with replacing(path) as file:
            np.savez(file, allow_pickle=False, sha256=_checksum(arrays), **arrays)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return arrays


def _unwritable(folder: Path, error: OSError) -> PermissionError:
    return PermissionError(
        f"the cache folder {folder} cannot be written to ({error.strerror}); set the environment "
        "variable METANOTES_CACHE (default ~/.cache/metanotes) to a folder that can"
    )


def _read(path: Path) -> Arrays:
    arrays = read_npz(path, limit=path.stat().st_size)  # ours are not packed
    if not np.array_equal(arrays.pop("sha256"), _checksum(arrays)):
        raise ValueError("its checksum differs")
    return arrays


def _checksum(arrays: Arrays) -> np.ndarray:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return np.frombuffer(digest.digest(), dtype=np.uint8)
