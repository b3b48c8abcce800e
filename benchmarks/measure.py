"""How contenders are checked, timed and weighed, and the least that the work could take.

Each contender first has to give the same result in float64. Then all take turns, in an order drawn
anew every round, so that whatever else the machine does meets all alike. In its turn a contender
repeats short work, as in training, where one step follows the other. What is reported is the
median, with the quartiles, of the times and of the ratios within a round.
"""

from __future__ import annotations

import ctypes
import gc
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from metanotes._ground.machine import cores, processor, versions

Step = Callable[[], Sequence[Tensor]]

TOLERANCE = 1e-10  # of a result in float64, relative to the reference's
TURN = 0.02  # seconds that a turn lasts at least


@dataclass(frozen=True)
class Workload:
    """Work that several contenders do.

    Args:
        name: as the table shows it.
        work: makes what the contenders are given, in a dtype and on a device.
        contenders: by name; each takes the work and returns the step that is timed. The step
            returns tensors, which are compared with the reference's.
        reference: the contender that is right by definition; "" where there is nothing to compare.
        ours: the contender that the ratios are taken to.
        parts: how many independent parts, which could be worked on at once, the reference does one
            after the other: T for a loop over T tasks.
    """

    name: str
    work: Callable[[torch.dtype, torch.device], Any]
    contenders: Mapping[str, Callable[[Any], Step]]
    reference: str = "plain loop"
    ours: str = "metanotes"
    parts: int = 1


@dataclass
class Row:
    """What one contender did.

    Args:
        contender: its name.
        error: of its result in float64, relative to the reference's.
        seconds: of every round.
        first: seconds of its first call, with whatever it compiles.
        peak: bytes that it held at most, beyond what there was before.
        note: why there is nothing of the above.
    """

    contender: str
    error: float | None = None
    seconds: list[float] = field(default_factory=list)
    first: float | None = None
    peak: int | None = None
    note: str = ""

    @property
    def wrong(self) -> bool:
        """Whether its result is not the reference's."""
        return self.error is not None and not self.error <= TOLERANCE


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Args:
        runs: rounds of all contenders at least.
        seconds: go on until so many have passed.
        most: rounds at most.
        check: compare the results first.
        warm: further calls of small work before it is timed, for what is prepared at a second one.
    """

    runs: int = 5
    seconds: float = 10.0
    most: int = 200
    check: bool = True
    warm: int = 2


class Machine:
    """The device that is measured, and what it can do at best.

    Args:
        device: "cpu", "cuda", "cuda:1", ...
        threads: of the processor; it matters on a GPU too, where they queue the work.
    """

    def __init__(self, device: str = "cpu", threads: int | None = None) -> None:
        self.device = torch.device(device)
        self.threads = threads or cores()
        torch.set_num_threads(self.threads)

    @cached_property
    def name(self) -> str:
        """The name of the GPU, or of the processor."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return processor()

    @property
    def slug(self) -> str:
        """The name as a file name."""
        threads = "" if self.device.type == "cuda" else f"-{self.threads}-threads"
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-") + threads

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

    def describe(self) -> dict[str, Any]:
        """For the record."""
        return {
            "device": self.name,
            "threads": self.threads,
            "product_gflop_per_s": round(self.limits["flops"] / 1e9, 1),
            "copy_gb_per_s": round(self.limits["bytes"] / 1e9, 1),
            "operation_us": round(1e6 * self.limits["dispatch"], 2),
            **versions(),
        }


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
    found = re.search(rf"{which}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


def relative_error(result: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """The norm of the difference, relative to the norm of the reference."""
    a, b = (torch.cat([t.detach().flatten() for t in tensors]) for tensors in (result, reference))
    return float((a - b).norm() / b.norm())


def compare(
    workload: Workload, machine: Machine, effort: Effort, contenders: str = ""
) -> list[Row]:
    """Check, time and weigh the contenders of a workload.

    Args:
        workload: what they do.
        machine: where.
        effort: how long.
        contenders: a regular expression; only those whose names it finds, beside ours.
    """
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()  # compiled code is kept by the function, up to a limit
    rows = {
        name: Row(name)
        for name in workload.contenders
        if re.search(contenders, name) or name == workload.ours
    }
    if effort.check and workload.reference:
        _check(workload, machine, rows)
    work = workload.work(torch.float32, machine.device)
    steps: dict[str, Step] = {}
    for name, row in rows.items():
        with _excused(row):
            step = workload.contenders[name](work)
            row.first = machine.seconds(step)
            for _ in range(effort.warm if row.first < 0.5 else 0):
                step()
            steps[name] = step
    order, draw = list(steps), random.Random(0)
    start = time.perf_counter()
    for done in range(effort.most):
        if done >= effort.runs and time.perf_counter() - start > effort.seconds:
            break
        draw.shuffle(order)
        for name in order:
            rows[name].seconds.append(machine.seconds(steps[name], TURN))
    for name, step in steps.items():
        rows[name].peak = machine.peak(step)
    return list(rows.values())


def _check(workload: Workload, machine: Machine, rows: Mapping[str, Row]) -> None:
    """Compare every contender's result with the reference's, in float64."""
    work = workload.work(torch.float64, machine.device)
    truth = [t.clone() for t in workload.contenders[workload.reference](work)()]
    for name, row in rows.items():
        if name != workload.reference:
            with _excused(row):
                row.error = relative_error(workload.contenders[name](work)(), truth)


@contextmanager
def _excused(row: Row) -> Iterator[None]:
    """A contender that is not there, or cannot do the work, is left out, and says why."""
    try:
        yield
    except Exception as error:
        row.note = row.note or f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile."""
    if len(values) < 2:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


# The floor --------------------------------------------------------------------------------------


class _Operations(TorchDispatchMode):
    """Counts the operations that compute something: views are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


class _Saved:
    """Counts the bytes that the backward pass needs, memory shared by several tensors once."""

    class Block:
        """Lives as long as some graph needs the memory that it stands for."""

    def __init__(self) -> None:
        self.bytes = 0
        self.blocks: WeakValueDictionary[int, _Saved.Block] = WeakValueDictionary()

    def pack(self, tensor: Tensor) -> tuple[Tensor, Block]:
        block = self.blocks.get(tensor.data_ptr())
        if block is None:
            block = self.blocks[tensor.data_ptr()] = _Saved.Block()
            self.bytes += min(tensor.nbytes, tensor.untyped_storage().nbytes())
        return tensor, block

    @staticmethod
    def unpack(packed: tuple[Tensor, Block]) -> Tensor:
        return packed[0]


class Counts(NamedTuple):
    """What a step does.

    Args:
        flops: floating-point operations of products and convolutions.
        operations: dispatched by PyTorch, views left out.
        saved: bytes kept for the backward pass.
    """

    flops: int
    operations: int
    saved: int


def count(step: Callable[[], object]) -> Counts:
    """Count one call."""
    operations, saved = _Operations(), _Saved()
    hooks = torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack)
    with hooks, FlopCounterMode(display=False) as flops, operations:
        step()
    return Counts(flops.get_total_flops(), operations.count, saved.bytes)


@dataclass(frozen=True)
class Floor:
    """What the work asks of any implementation, as seconds of this machine at its best.

    Args:
        counts: of the reference, all parts.
        arithmetic: the floating-point operations, at the rate of a large matrix product.
        memory: what the backward pass needs, written once and read once, at the rate of a copy.
        dispatch: the operations of one part (each could do all parts at once), at the time of an
            empty operation. Compilation, which fuses operations, can go below it.
    """

    counts: Counts
    arithmetic: float
    memory: float
    dispatch: float


def floor(workload: Workload, machine: Machine) -> Floor | None:
    """The floor of a workload, counted on its reference."""
    if not workload.reference:
        return None
    work = workload.work(torch.float32, machine.device)
    counts = count(workload.contenders[workload.reference](work))
    limits = machine.limits
    return Floor(
        counts,
        arithmetic=counts.flops / limits["flops"],
        memory=2 * counts.saved / limits["bytes"],
        dispatch=counts.operations / workload.parts * limits["dispatch"],
    )
