"""Arguments that are refused by name, before any work."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import torch


def positive(name: str, value: Any) -> float:
    """A finite number above 0.

    Raises:
        ValueError: names the argument and its value.

    >>> positive("lr", 0.5)
    0.5
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name}={value!r} must be a number above 0")
    if not 0 < float(value) < math.inf:
        raise ValueError(f"{name}={value} must be a finite number above 0")
    return float(value)


def fraction(name: str, value: float) -> float:
    """A number of at least 0 and below 1, such as a decay.

    Raises:
        ValueError: names the argument and its value.
    """
    if not 0 <= value < 1:
        raise ValueError(f"{name}={value} must be in [0, 1)")
    return float(value)


def nonnegative(name: str, value: Any) -> float:
    """A finite number of at least 0, such as the weight of a loss.

    Raises:
        ValueError: names the argument and its value.

    >>> nonnegative("gamma", 0)
    0.0
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name}={value!r} must be a number of at least 0")
    if not 0 <= float(value) < math.inf:
        raise ValueError(f"{name}={value} must be a finite number of at least 0")
    return float(value)


def count(name: str, value: Any, least: int = 1) -> int:
    """A whole number, of Python's or numpy's, of at least `least`.

    Raises:
        ValueError: names the argument and its value.

    >>> count("steps", 3, least=0)
    3
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}={value!r} must be a whole number of at least {least}")
    return int(value)


def counts(**values: Any) -> None:
    """Whole numbers of at least 1, by the names of the arguments.

    Raises:
        ValueError: names the argument and its value.
    """
    for name, value in values.items():
        count(name, value)


def seed(value: Any) -> int:
    """A whole number that `torch.Generator.manual_seed` takes, of Python's or numpy's.

    Raises:
        ValueError: names the argument and its value.

    >>> seed(3)
    3
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"seed={value!r} must be a whole number")
    number = int(value)
    if not -(2**63) <= number < 2**64:
        raise ValueError(f"seed={number} must be of at least -2**63 and below 2**64")
    return number


def existing_device(device: torch.device | str) -> torch.device:
    """The device, if this machine has it.

    Raises:
        ValueError: it has not.

    >>> existing_device("cpu")
    device(type='cpu')
    """
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        cuda = torch.cuda.device_count()
        raise ValueError(
            f"device={str(device)!r} cannot be used here ({str(error).splitlines()[0]}): "
            "choose 'cpu'" + (f" or 'cuda:0' to 'cuda:{cuda - 1}'" if cuda else "")
        ) from error
    return device
