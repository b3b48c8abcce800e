"""What an array file was made of, in a few characters of its name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def fingerprint(source: Path, files: Iterable[str] = ()) -> str:
    """Twelve characters that change when the source does.

    Args:
        source: a file, of which all bytes count; or a folder, of which its place counts and, of
            each of `files`, the name, the size and the time of its last change.
        files: paths in the folder, of files that are there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "digits.bin"
    ...     _ = path.write_bytes(b"0123456789")
    ...     fingerprint(path)
    '84d89877f0d4'
    """
    if source.is_file():
        with open(source, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:12]
    digest = hashlib.sha256(str(source.resolve()).encode())
    for path in files:
        state = (source / path).stat()
        digest.update(f"{path} {state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()[:12]
