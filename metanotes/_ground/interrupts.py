"""Ctrl+C that waits until the work can be put down."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_wait(wait: bool = True) -> Iterator[Callable[[], None]]:
    """Hold a Ctrl+C back until the work asks for it; a second one does not wait.

    Only in the main thread, and only where nobody else has taken the signal: elsewhere nothing is
    changed.

    Args:
        wait: False leaves Ctrl+C as it is.

    Yields:
        A function that raises KeyboardInterrupt if Ctrl+C was pressed. It is asked once more at the
        end.

    >>> with interrupts_wait() as ask:
    ...     for _ in range(3):
    ...         pass                # a part of the work that should be whole
    ...         ask()
    """
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    def ask() -> None:
        if pressed:
            raise KeyboardInterrupt

    ours = (
        wait
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if not ours:
        yield ask
        return
    signal.signal(signal.SIGINT, press)
    try:
        yield ask
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    ask()
