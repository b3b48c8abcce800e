"""What a record says of the machine that made it."""

from __future__ import annotations

import platform
import re
from pathlib import Path


def processor_name() -> str:
    """The name of the processor, without trade marks: "AMD EPYC".

    >>> name = processor_name()
    >>> name == name.strip() and "(R)" not in name and len(name) > 0
    True
    """
    info = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    name = match[1] if match else platform.processor() or platform.machine()
    return re.sub(r"\s+", " ", re.sub(r"\([^)]*\)", "", name)).strip()
