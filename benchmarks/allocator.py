"""How glibc's allocator is set, which is decided at the start of a process."""

from __future__ import annotations

import os

# glibc gives large blocks back to the system when they are freed, and the system clears their pages
# when they are asked for anew. With the first of these it keeps them; with the second all is as
# glibc has it by default. metanotes itself sets neither.
ALLOCATORS = {
    "keeps freed memory": {
        "MALLOC_MMAP_THRESHOLD_": str(2**30),
        "MALLOC_TRIM_THRESHOLD_": str(2**33),
    },
    "gives freed memory back": {"MALLOC_PERTURB_": "0"},
}
KEEPING, GIVING = ALLOCATORS


def environment(allocator: str) -> dict[str, str]:
    """That of this process, but for the allocator."""
    others = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    return others | ALLOCATORS[allocator]


def variables() -> dict[str, str]:
    """Those by which the allocator of this process is set."""
    return {k: v for k, v in os.environ.items() if k.startswith("MALLOC_")}


def setting() -> str:
    """How the allocator of this process is set."""
    here = variables()
    names = (name for name, chosen in ALLOCATORS.items() if chosen == here)
    return next(names, str(here or "as it comes"))
