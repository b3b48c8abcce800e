"""The files in an archive, read into memory: nothing is unpacked to disk, and none is a bomb.

A few kilobytes may claim, or unpack to, more than any machine has. What an archive says of its
sizes is added up before anything is unpacked, and what says nothing is unpacked piece by piece, up
to a limit.
"""

from __future__ import annotations

import bz2
import gzip
import io
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from metanotes.data.files.damage import DamagedDataError

Arrays = dict[str, np.ndarray]
LIMIT = 2**30  # bytes, unpacked: several times what any set of ours has
PIECE = 2**20


def read_zip(
    path: Path, remedy: str, *, prefix: str = "", ending: str = "", limit: int = LIMIT
) -> dict[str, bytes]:
    """The files in a zip, by their paths.

    Args:
        path: the zip.
        remedy: what would do where it is damaged, for the message.
        prefix: only files whose path begins with it, which is cut off.
        ending: only files whose path ends with it.
        limit: the bytes that all files in it may have together.

    Raises:
        DamagedDataError: it cannot be read, is larger than `limit`, or has a path that leaves its
            folder.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "words.zip"
    ...     with zipfile.ZipFile(path, "w") as file:
    ...         file.writestr("en/one.txt", "a word")
    ...     read_zip(path, "make it again", prefix="en/")
    {'one.txt': b'a word'}
    """
    try:
        with zipfile.ZipFile(path) as file:
            members = [member for member in file.infolist() if not member.is_dir()]
            _check_paths(path, file.namelist(), remedy)
            _check_zip(file, limit)
            return {
                member.filename.removeprefix(prefix): _read_member(file, member)
                for member in members
                if member.filename.startswith(prefix) and member.filename.endswith(ending)
            }
    except (DamagedDataError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # whatever damage leads the reader to
        raise DamagedDataError(f"{path} is damaged ({error}); {remedy}") from error


def read_tar(path: Path, remedy: str, *, limit: int = LIMIT) -> dict[str, bytes]:
    """The files in a gzipped tar, by their paths.

    Args:
        path: the `.tar.gz`.
        remedy: what would do where it is damaged, for the message.
        limit: the bytes that it may have when it is unzipped.

    Raises:
        DamagedDataError: it cannot be read, is larger than `limit`, or has a link or a path that
            leaves its folder.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "words.tar.gz"
    ...     with tarfile.open(path, "w:gz") as tar:
    ...         member = tarfile.TarInfo("./one.txt")
    ...         member.size = 6
    ...         tar.addfile(member, io.BytesIO(b"a word"))
    ...     read_tar(path, "make it again")
    {'one.txt': b'a word'}
    """
    files, total = {}, 0
    try:
        # Unzipped as a whole first, which compares its checksum.
        with tarfile.open(fileobj=io.BytesIO(unzipped(path, limit))) as tar:
            for member in tar:
                _check_paths(path, [member.name], remedy)
                if not (member.isfile() or member.isdir()) or member.issparse():
                    raise DamagedDataError(
                        f"{path} has a link, {member.name!r}: do not use or unpack it; {remedy}"
                    )
                total += member.size
                if member.size < 0 or total > limit:  # holes take no room in the archive
                    raise ValueError(_too_large(limit))
                if (file := tar.extractfile(member)) is not None:
                    files[member.name.removeprefix("./")] = file.read()
    except (DamagedDataError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # whatever damage leads the reader to
        raise DamagedDataError(f"{path} is damaged ({error}); {remedy}") from error
    return files


def unzipped(path: Path, limit: int = LIMIT) -> bytes:
    """The contents of a `.gz` or `.bz2` file.

    Args:
        path: the file; its ending says which it is.
        limit: the bytes that it may have when it is unzipped.

    Raises:
        ValueError: it is larger.
        OSError, EOFError, zlib.error: it is damaged.
    """
    kind = bz2.BZ2File if path.suffix == ".bz2" else gzip.GzipFile
    with kind(path) as file:
        pieces, total = [], 0
        while piece := file.read(PIECE):
            total += len(piece)
            if total > limit:
                raise ValueError(_too_large(limit))
            pieces.append(piece)
    return b"".join(pieces)


def read_npz(path: Path, *, limit: int = LIMIT) -> Arrays:
    """The arrays in a file of `numpy.savez`, by name; never a pickled object.

    Args:
        path: the file.
        limit: the bytes that the arrays may have together.

    Raises:
        Exception: it is damaged, or larger than `limit`; of many kinds.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "arrays.npz"
    ...     np.savez(path, x=np.arange(3))
    ...     read_npz(path)
    {'x': array([0, 1, 2])}
    """
    arrays = {}
    with zipfile.ZipFile(path) as file:
        _check_zip(file, limit)
        for member in file.infolist():
            with file.open(member) as contents:
                array = np.lib.format.read_array(contents, allow_pickle=False)
                arrays[member.filename.removesuffix(".npy")] = array
    return arrays


def leaves_its_folder(path: str) -> bool:
    """Whether a path in an archive or a list leads out of its folder, on any machine.

    >>> leaves_its_folder("train/../../secret"), leaves_its_folder("train/0.png")
    (True, False)
    """
    return path.startswith("/") or ".." in path.split("/") or ":" in path or "\\" in path


def _check_paths(archive: Path, paths: Iterable[str], remedy: str) -> None:
    for path in paths:
        if leaves_its_folder(path):
            raise DamagedDataError(
                f"{archive} has a path that leaves its folder, {path!r}: do not use or unpack it; "
                f"{remedy}"
            )


def _check_zip(file: zipfile.ZipFile, limit: int) -> None:
    """Refuse too many bytes, and what is packed in a way that hides how many there are."""
    members = file.infolist()
    if any(m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for m in members):
        raise ValueError("it is packed in an unusual way")
    if sum(member.file_size for member in members) > limit:
        raise ValueError(_too_large(limit))


def _read_member(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """One file; a size is asked for, since without it all is unpacked, whatever was said of it."""
    with file.open(member) as contents:
        return contents.read(member.file_size + 1)


def _too_large(limit: int) -> str:
    return f"unpacked it has more than {limit:,} bytes"
