"""The work, a file a kind, each with its contenders.

A file offers what it has of these, each without arguments: `standard()`, the workloads that
`make bench` measures; `quick()`, small ones, to see that all works; `curves()`, how cost grows;
`allocation()`, what is measured under both settings of the allocator. A file that lies in this
folder is measured; nothing else need name it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any


def offered(kind: str, missing: list[str] | None = None) -> Iterator[tuple[str, Any]]:
    """What the files of this folder offer.

    Args:
        kind: "standard", "quick", "curves" or "allocation".
        missing: gets what is wrong with the files that cannot be imported, since the metanotes of
            another checkout is too old for them; without such a list it is an error.

    Yields:
        The name that `--only` looks into, `FILE/NAME`, and the `Workload` or `Curve`.
    """
    for file in pkgutil.iter_modules(__path__):
        try:
            module = importlib.import_module(f"{__name__}.{file.name}")
        except ImportError as error:
            if missing is None:
                raise
            missing.append(f"{file.name}: {error}")
            continue
        for work in getattr(module, kind, tuple)():
            yield f"{file.name}/{work.name}", work
