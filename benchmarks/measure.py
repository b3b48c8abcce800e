"""How contenders are checked, timed and weighed.

Each contender first has to give the same result in float64. Then all take turns, in an order drawn
anew every round, so that whatever else the machine does meets all alike. In its turn a contender
repeats short work, as in training, where one step follows the other. What is reported is the
median, with the quartiles, of the times and of the ratios within a round.
"""

from __future__ import annotations

import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import Machine

Step = Callable[[], Sequence[Tensor]]
Contender = Callable[[Any], Step]

OURS, REFERENCE = "metanotes", "plain loop"
TOLERANCE = 1e-10  # of a result in float64, relative to the reference's
TURN = 0.02  # seconds that a turn lasts at least
SMALL = 0.5  # seconds of a first call, up to which work is warmed up,
SHORT = 0.05  # and of a second one, up to which `Workload.warm` is listened to


@dataclass(frozen=True)
class Workload:
    """Work that several contenders do.

    Args:
        name: as the table shows it.
        work: makes what the contenders are given, in a dtype and on a device.
        contenders: by name; each takes the work and returns the step that is timed. The step
            returns tensors, which are compared with the reference's; none where it does other work,
            to be weighed beside. Names of our own begin with "metanotes".
        reference: the contender that is right by definition; "" where there is nothing to compare.
        ours: the contender that the ratios are taken to.
        parts: how many independent parts, which could be worked on at once, the reference does one
            after the other: T for a loop over T tasks.
        warm: by contender, calls before it is timed, where it needs more of them than `Effort.warm`
            to reach the speed that it has in training, if they are short.
    """

    name: str
    work: Callable[[torch.dtype, torch.device], Any]
    contenders: Mapping[str, Contender]
    reference: str = REFERENCE
    ours: str = OURS
    parts: int = 1
    warm: Mapping[str, int] = field(default_factory=dict)

    @property
    def own(self) -> list[str]:
        """Our own contenders."""
        return [name for name in self.contenders if name.startswith(OURS)]


@dataclass(frozen=True)
class Curve:
    """How cost grows: the same work at rising values of one setting.

    Args:
        name: as `--only` finds it.
        axis: what grows.
        values: its values.
        at: the workload at a value.
        section: of the record, that keeps it: "growth" or "curves" (see `report`).
    """

    name: str
    axis: str
    values: Sequence[int]
    at: Callable[[int], Workload]
    section: str = "growth"


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
        warm: further calls of small work before it is timed, for what is prepared at a second one;
            `Workload.warm` may ask for more. 0: no contender is warmed.
    """

    runs: int = 5
    seconds: float = 10.0
    most: int = 200
    check: bool = True
    warm: int = 2


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
            steps[name], row.first = prepared(workload, name, work, machine, effort)
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


def prepared(
    workload: Workload, contender: str, work: Any, machine: Machine, effort: Effort
) -> tuple[Step, float]:
    """The step of a contender, warmed up, and the seconds of its first call."""
    step = workload.contenders[contender](work)
    first = machine.seconds(step)
    if not effort.warm:
        return step, first
    calls = effort.warm if first < SMALL else 0
    if contender in workload.warm and machine.seconds(step) < SHORT:
        calls = workload.warm[contender] - 1
    for _ in range(calls):
        step()
    return step, first


def _check(workload: Workload, machine: Machine, rows: Mapping[str, Row]) -> None:
    """Compare every contender's result with the reference's, in float64."""
    work = workload.work(torch.float64, machine.device)
    truth = [t.clone() for t in workload.contenders[workload.reference](work)()]
    for name, row in rows.items():
        if name != workload.reference:
            with _excused(row):
                result = workload.contenders[name](work)()
                row.error = relative_error(result, truth) if result else None


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
