"""Where data sets are read from, and where the arrays that are made of them are kept.

`METANOTES_DATA` names the folder that data sets are read from and downloaded to, and
`METANOTES_CACHE` the one that array files are written to. Each is `~/.cache/metanotes` unless set,
so that a data folder may be read-only or shared.
"""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT = "~/.cache/metanotes"


def data_folder(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder that data sets are read from: `root`, or else `METANOTES_DATA`.

    >>> data_folder("data").as_posix()
    'data'
    """
    return Path(root or os.environ.get("METANOTES_DATA") or DEFAULT).expanduser()


def cache_folder(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder that array files are kept in: `root`, or else `METANOTES_CACHE`.

    >>> cache_folder("cache").as_posix()
    'cache'
    """
    return Path(root or os.environ.get("METANOTES_CACHE") or DEFAULT).expanduser()
