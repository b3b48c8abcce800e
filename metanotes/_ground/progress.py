"""A bar that shows how far long work is."""

from __future__ import annotations

import os
from typing import Any


def progress_bar(total: int, what: str, show: bool, done: int = 0) -> Any:
    """A tqdm bar; in a notebook, one of its own.

    Args:
        total: how many steps the work has.
        what: is done, in a word or two.
        show: False, or the variable TQDM_DISABLE in the environment, hides it.
        done: steps that were done before.

    >>> with progress_bar(3, "counting", show=False) as bar:
    ...     for _ in range(3):
    ...         _ = bar.update()
    """
    from tqdm.auto import tqdm

    # tqdm's own reading of TQDM_DISABLE does not reach its bar for notebooks.
    hidden = not show or bool(os.environ.get("TQDM_DISABLE"))
    return tqdm(total=total, initial=done, desc=what, leave=False, disable=hidden)
