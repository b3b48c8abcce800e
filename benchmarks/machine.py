"""The device that is measured: its clock, its memory, and what it can do at best."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import torch


class Machine:
    """The device that is measured, and what it can do at best.

    Args:
        device: "cpu", "cuda", "cuda:1", ...
        threads: of the processor; it matters on a GPU too, where they queue the work.
    """

    def __init__(self, device: str = "cpu", threads: int | None = None) -> None:
        self.device = torch.device(device)
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
        self.threads = threads or cores or 1
        torch.set_num_threads(self.threads)

    def synchronize(self) -> None:
        """Wait until the device has done all that was queued."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, step: Callable[[], object], turn: float = 0.0) -> float:
        """The time of one call: the mean of calls, one after the other, for `turn` seconds."""
        self.synchronize()
        start, calls, end = time.perf_counter(), 0, 0.0
        while calls == 0 or end < start + turn:
            step()
            calls, end = calls + 1, time.perf_counter()
        self.synchronize()
        return (time.perf_counter() - start) / calls

    def peak(self, step: Callable[[], object]) -> int | None:
        """Bytes held at most during a call, beyond those held before it.

        On a GPU these are what torch's allocator gave out. On Linux they are the process's
        resident memory, whose highest value the kernel keeps: this sees every thread and every
        library's scratch space, and is good to some tenths of a megabyte. The allocator gives its
        free memory back before, so that what was free counts again when it is used.
        """
        gc.collect()
        if self.device.type == "cuda":
            self.synchronize()
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            step()
            self.synchronize()
            return torch.cuda.max_memory_allocated(self.device) - before
        libc = ctypes.CDLL(None)
        if not hasattr(libc, "malloc_trim"):
            return None  # not Linux with glibc
        libc.malloc_trim(0)
        try:  # 5: the highest value so far is now the present one
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return None
        before = _resident("VmRSS")
        step()
        return max(_resident("VmHWM") - before, 0)

    @cached_property
    def limits(self) -> dict[str, float]:
        """What this machine can do at best in float32, with these threads, measured.

        flops: operations a second of a product of two large matrices.
        bytes: bytes a second, read and written, of a copy much larger than any cache.
        dispatch: seconds that an operation on next to no data takes, outside autograd.
        """
        n = 8192 if self.device.type == "cuda" else 1536
        a, b, c = (torch.rand(n, n, device=self.device) for _ in range(3))
        source = torch.rand(2**28 // 4, device=self.device)
        target = torch.empty_like(source)
        tiny, calls = torch.ones(4, device=self.device), 2000

        def dispatch() -> None:
            for _ in range(calls):
                torch.add(tiny, tiny)

        with torch.no_grad(), _as_convolutions_round():
            product = self._best(lambda: torch.mm(a, b, out=c))
            copied = self._best(lambda: target.copy_(source))
            dispatched = self._best(dispatch) / calls
        return {
            "flops": 2 * n**3 / product,
            "bytes": 2 * source.nbytes / copied,
            "dispatch": dispatched,
        }

    def _best(self, step: Callable[[], object], runs: int = 10) -> float:
        return min(self.seconds(step) for _ in range(runs))


@contextmanager
def _as_convolutions_round() -> Iterator[None]:
    """Products in TensorFloat-32 on a GPU where its convolutions are, which is torch's default."""
    before = torch.get_float32_matmul_precision()
    if torch.cuda.is_available() and torch.backends.cudnn.allow_tf32:
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _resident(which: str) -> int:
    """Bytes: VmRSS, resident now, or VmHWM, resident at most."""
    match = re.search(rf"{which}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match
    return 1024 * int(match[1])
