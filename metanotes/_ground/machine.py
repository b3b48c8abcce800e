"""What a measurement or a recorded run says about the machine that it was made on."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path

import torch


def processor() -> str:
    """The name of the processor, without marks and clock words that say nothing.

    >>> bool(processor())
    True
    """
    info = Path("/proc/cpuinfo")
    stated = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    name = stated[1] if stated else platform.processor() or platform.machine()
    return re.sub(r"\s+", " ", re.sub(r"\([^)]*\)", "", name)).strip()


def cores() -> int:
    """How many cores of the processor this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Of torch, without the build's suffix, and of Python.

    >>> sorted(versions())
    ['python', 'torch']
    """
    return {"torch": torch.__version__.split("+")[0], "python": platform.python_version()}
