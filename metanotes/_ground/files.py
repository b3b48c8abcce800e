"""Files that are whole or not there: one way to write, used by all that is kept."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Write a file under a temporary name beside its own; at the end it takes its place.

    What stood there before is there until then, whatever happens: an error, a full disk, a lost
    current. The folder is made if it is missing; a symbolic link stays one, and what it points to
    is replaced; permissions are those of any new file (the umask's), or those the old file had.
    What a writer of this file left when it was killed is removed an hour after its last byte.

    Args:
        path: the file.

    Raises:
        OSError: the folder or the file cannot be written to.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "new" / "words.txt"
    ...     with replacing(path) as file:
    ...         _ = file.write(b"whole")
    ...     path.read_text(), len(list(path.parent.iterdir()))
    ('whole', 1)
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target)
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
    try:
        with open(temporary, "xb") as file:
            if target.exists():
                os.chmod(temporary, target.stat().st_mode & 0o777)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def remove_leftovers(path: Path, older: float = 3600.0) -> None:
    """Delete the temporary files of writers of this file that were killed.

    Args:
        path: the file that they would have become.
        older: seconds since the last byte; a younger one may still be written to.
    """
    temporary = re.compile(rf"\.{re.escape(path.name)}\.\d+-[0-9a-f]{{8}}\.part")
    with contextlib.suppress(OSError):
        for file in path.parent.iterdir():
            if temporary.fullmatch(file.name):
                with contextlib.suppress(OSError):
                    if time.time() - file.stat().st_mtime > older:
                        file.unlink()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, UTF-8, as `replacing` does."""
    with replacing(path) as file:
        file.write(text.encode())


def sync_folder(folder: Path) -> None:
    """Make a new name in a folder last, where the system can be asked to."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class InUseError(OSError):
    """Another process has locked the file."""


def locked(path: str | os.PathLike[str]) -> int | None:
    """Keep a file for whoever calls this, until `unlocked` is, or the process ends in any way.

    The lock is on an empty file beside it, which is there as long as somebody works, and is left
    only by a process that was killed; that is no lock any more.

    Args:
        path: the file, which need not be there.

    Returns:
        The handle of the lock; None where there is none to be had, on Windows or in a folder that
        cannot be written to.

    Raises:
        InUseError: somebody else has it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "words.txt"
    ...     handle = locked(path)
    ...     unlocked(path, handle)
    ...     list(path.parent.iterdir())
    []
    """
    if sys.platform == "win32":
        return None
    beside = lock_beside(path)
    while True:
        try:
            beside.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(beside, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(beside)):
                    return handle
            os.close(handle)  # whoever had it has removed it in between: once more
        except BlockingIOError as error:
            os.close(handle)
            raise InUseError(f"{os.fspath(path)} is in use") from error
        except OSError:  # a file system without locks
            os.close(handle)
            return None


def unlocked(path: str | os.PathLike[str], handle: int) -> None:
    """Give back what `locked` gave."""
    with contextlib.suppress(OSError):
        lock_beside(path).unlink()
    os.close(handle)


def lock_beside(path: str | os.PathLike[str]) -> Path:
    """The file that stands for the lock of another; the same one for all links to that."""
    target = Path(os.path.realpath(path))
    return target.with_name(f".{target.name}.lock")
