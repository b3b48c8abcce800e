"""Ctrl+C that waits until the work can be put down."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_wait(wait: bool = True, once: bool = True) -> Iterator[Callable[[], bool]]:
    """Hold a Ctrl+C back until the work asks for it; a second one does not wait.

    Only in the main thread, and only where nobody else has taken the signal: elsewhere nothing is
    changed.

    Args:
        wait: False leaves Ctrl+C as it is.
        once: whether a second one does not wait; torchrun passes on to its processes what the
            terminal has sent them already.

    Yields:
        A function that says whether Ctrl+C was pressed. If it was, KeyboardInterrupt is raised at
        the end.

    >>> with interrupts_wait() as pressed:
    ...     for _ in range(3):
    ...         pass                # a part of the work that should be whole
    ...         if pressed():
    ...             raise KeyboardInterrupt
    """
    presses = 0

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal presses
        presses += 1
        if once and presses > 1:
            raise KeyboardInterrupt

    def pressed() -> bool:
        return presses > 0

    ours = (
        wait
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if not ours:
        yield pressed
        return
    signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if pressed():
        raise KeyboardInterrupt
