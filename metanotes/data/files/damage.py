"""Data that is there and not right, and how it is said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class DamagedDataError(ValueError):
    """A data set that is there, but is half-unpacked or altered.

    >>> issubclass(DamagedDataError, ValueError)
    True
    """


def first_few(names: Sequence[str], most: int = 3) -> str:
    """A list for a message, cut short.

    >>> first_few(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def check_complete(source: Path, missing: Sequence[str], remedy: str) -> None:
    """Refuse a folder or an archive in which something is missing.

    Args:
        source: the folder or the archive.
        missing: what is not in it.
        remedy: what would do.

    Raises:
        DamagedDataError: `missing` is not empty.
    """
    if missing:
        raise DamagedDataError(f"{source} is not whole: {first_few(missing)} not there; {remedy}")
