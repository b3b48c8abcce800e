"""What all parts are told."""

from __future__ import annotations

import time
from typing import NamedTuple

from benchmarks.machine import Machine


class Setting(NamedTuple):
    """Where, how much, and until when.

    Args:
        machine: what is measured.
        small: small work, to see that all works.
        end: when the part is ended, by the monotonic clock.
    """

    machine: Machine
    small: bool
    end: float

    @property
    def left(self) -> float:
        """Seconds until then."""
        return self.end - time.monotonic()
