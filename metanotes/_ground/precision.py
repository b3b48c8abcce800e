"""Numbers with all of their digits, where what is worked out in two ways is to be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from threading import RLock
from typing import Any, NamedTuple

import torch

_one_at_a_time = RLock()  # torch keeps these settings for the whole process


@contextmanager
def all_digits(device: torch.device) -> Iterator[None]:
    """Convolutions and products in float32 keep its 24 bits.

    A GPU rounds what it multiplies to 11 of them (TensorFloat-32), in convolutions by default. Two
    ways of the same work then differ by a thousandth and more, as if one of them were wrong.

    Args:
        device: where the work is done; on a processor nothing changes.

    >>> with all_digits(torch.device("cpu")):
    ...     torch.ones(2) / 3
    tensor([0.3333, 0.3333])
    """
    if device.type != "cuda":
        yield
        return
    with _one_at_a_time:
        settings = convolutions(), products()
        for setting in settings:
            setting.put(setting.full)
        try:
            yield
        finally:
            for setting in settings:
                setting.put(setting.before)


@contextmanager
def in_full(device: torch.device) -> Iterator[None]:
    """`all_digits`, and no automatic casts either.

    >>> with torch.autocast("cpu", torch.bfloat16), in_full(torch.device("cpu")):
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.float32
    """
    casts = torch.is_autocast_enabled(device.type)
    no_casts = torch.autocast(device.type, enabled=False) if casts else nullcontext()
    with all_digits(device), no_casts:
        yield


class Setting(NamedTuple):
    """A setting of torch's.

    Args:
        before: what it was.
        full: with which all digits are kept.
        change: sets it.
    """

    before: str
    full: str
    change: Callable[[str], None]

    def put(self, value: str) -> None:
        """Set it, if it is another: one that is set follows torch's general ones no longer."""
        if self.before != self.full:
            self.change(value)


def convolutions() -> Setting:
    """How cuDNN's convolutions round."""
    setting: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    change = partial(setattr, setting, "fp32_precision")
    return Setting(setting.fp32_precision, "ieee", change)


def products() -> Setting:
    """How products of matrices round, by the kind of setting that is in use: torch mixes no two."""
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:
        setting = torch.backends.cuda.matmul
        change = partial(setattr, setting, "fp32_precision")
        return Setting(setting.fp32_precision, "ieee", change)
    return Setting(precision, "highest", torch.set_float32_matmul_precision)
