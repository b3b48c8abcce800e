"""Data sets that torchvision downloads, and torchvision where it cannot be imported as it is.

Where a CUDA build of it stands beside a CPU build of torch, its compiled operators cannot be
loaded, and `import torchvision` fails with "operator torchvision::nms does not exist", though its
data sets and transforms need none of them. Declaring the two operators that the import asks for is
enough; they stay without an implementation.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from metanotes.data.files.damage import DamagedDataError

_declared: torch.library.Library | None = None  # the declarations last as long as this does


def import_torchvision() -> ModuleType:
    """The torchvision module.

    Raises:
        ImportError: torchvision is not installed.
    """
    global _declared
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        raise ImportError("this needs torchvision: pip install torchvision") from error
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error) or _declared is not None:
            raise
    _declared = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        _declared.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision")


def read_or_fetch(
    name: str,
    call: str,
    folder: Path,
    files: Sequence[Path],
    *,
    download: bool,
    fetch: Callable[[Any], object],
    read: Callable[[], Any],
) -> Any:
    """What `read` returns of files that are there, or are fetched; its errors say what would do.

    Args:
        name: the data set's.
        call: the reader's call that fetches it, for the messages.
        folder: where it lies.
        files: what has to be there before it can be read.
        download: whether to fetch what is missing.
        fetch: downloads it, from `torchvision.datasets`.
        read: reads it.

    Raises:
        FileNotFoundError: it is not there and is not to be fetched.
        DamagedDataError: `read` raised an error, other than of what it may not write or import.
        ImportError: torchvision is not installed, and something is to be fetched.
        OSError: the download failed.
    """
    elsewhere = f"set the environment variable METANOTES_DATA to the folder that holds {name}"
    if _missing(files):
        if not download:
            raise FileNotFoundError(f"{name} is not in {folder}: {call} fetches it, or {elsewhere}")
        datasets, cause = import_torchvision().datasets, None
        try:
            fetch(datasets)
        except Exception as error:  # whatever is amiss on the way
            cause = error
        if _missing(files):
            reason = f" ({cause})" if cause else ""
            raise OSError(
                f"{name} could not be downloaded to {folder}{reason}; {elsewhere}"
            ) from cause
    try:
        return read()
    except (DamagedDataError, PermissionError, ImportError):
        raise
    except Exception as error:  # whatever a damaged file leads its reader to
        raise DamagedDataError(
            f"{name} in {folder} is damaged ({error}); {fetched_anew(files, call)}"
        ) from error


def fetched_anew(files: Sequence[Path], call: str) -> str:
    """What to do about damaged files, for a message."""
    return f"delete {' and '.join(file.name for file in files)}, and {call} fetches it anew"


def _missing(files: Sequence[Path]) -> bool:
    return any(not file.exists() for file in files)
