"""Measure metanotes beside its peers: `make bench`.

Times are medians with quartiles; a ratio is a contender's time over metanotes' in the same round,
so that 2 means that metanotes takes half as long. A contender whose meta-gradient in float64 is
not that of the plain loop to 1e-10 is marked WRONG. Memory is what was held at most during one
step. The record goes to results/benchmarks/, the pictures to benchmarks/plots/.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import extras, report, workloads
from benchmarks.measure import Effort, Machine, Workload, compare, floor

HERE = Path(__file__).parent
# glibc gives large blocks back to the system when they are freed, and the system clears their pages
# when they are asked for anew. With the first of these it keeps them, as metanotes asks it to; with
# the second all is as glibc has it by default, for metanotes too, which leaves the allocator alone
# where such a variable is set.
ALLOCATORS = {
    "keeps freed memory": {
        "MALLOC_MMAP_THRESHOLD_": str(2**30),
        "MALLOC_TRIM_THRESHOLD_": str(2**33),
    },
    "gives freed memory back": {"MALLOC_PERTURB_": "0"},
}
KEEPING, GIVING = ALLOCATORS


def settings(text: str) -> dict[str, Any]:
    """`"tasks=32,pool=max"` as arguments of a workload."""
    pairs = (pair.split("=") for pair in text.split(",") if pair)
    return {k: int(v) if v.lstrip("-").isdigit() else v for k, v in pairs}


def options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--device", default="cpu", help="cpu or cuda")
    add("--threads", type=int, help="of the processor; default: all cores")
    add("--runs", type=int, default=5, help="rounds of each workload at least")
    add("--seconds", type=float, default=8, help="go on for so long with each workload")
    add("--only", default="", help="workloads whose names this regular expression finds")
    add("--contenders", default="", help="likewise contenders; metanotes is always one")
    for name in ("conv", "sine"):
        text = "this instead of the standard ones, e.g. tasks=32,steps=5; see workloads.py"
        add(f"--{name}", action="append", default=[], type=settings, help=text)
    add("--quick", action="store_true", help="a small one, to see that all works")
    add("--no-peers", action="store_true", help="leave out the peers that need installing")
    add("--no-growth", action="store_true", help="leave out the growth curves")
    add("--no-allocator", action="store_true", help="leave out the second allocator setting")
    add("--allocator-only", action="store_true", help=argparse.SUPPRESS)  # the re-executed run
    add("--plots", type=Path, default=HERE / "plots", help="folder for the pictures")
    add("--record", type=Path, help="default: results/benchmarks/, for a full run")
    return parser.parse_args(arguments)


def command(arguments: list[str]) -> str:
    """What gives the record again; the paths of this machine are left out."""
    line = " ".join(["python -m benchmarks", *arguments])
    return re.sub(r" --(record|plots)[= ]\S+", "", line)


def chosen(opts: argparse.Namespace) -> list[Workload]:
    """The workloads that were asked for."""
    if opts.allocator_only:
        made = workloads.allocation()
    elif opts.conv or opts.sine:
        made = [workloads.conv(**s) for s in opts.conv] + [workloads.sine(**s) for s in opts.sine]
    elif opts.quick:
        made = workloads.quick()
    else:
        made = workloads.standard()
    return [workload for workload in made if re.search(opts.only, workload.name)]


def measured(
    made: list[Workload], machine: Machine, effort: Effort, contenders: str
) -> list[report.Entry]:
    """Measure the workloads, printing each as it is done."""
    entries = []
    for i, workload in enumerate(made):
        print(f"{i + 1} of {len(made)}: ", end="", flush=True)
        rows = compare(workload, machine, effort, contenders)
        entries.append(report.entry(workload, rows, floor(workload, machine)))
        print(report.table(entries[-1]), flush=True)
    return entries


def grown(machine: Machine, effort: Effort) -> list[dict[str, Any]]:
    """Time and memory as tasks, steps and width grow."""
    points = []
    for axis, values in workloads.GROWTH.items():
        for value in values:
            workload = workloads.growth(axis, value)
            made = report.entry(workload, compare(workload, machine, effort))
            points.append({"axis": axis, "value": value, **made})
            print(report.table(made), flush=True)
    return points


def environment(allocator: str) -> dict[str, str]:
    """That of this process, but for the allocator."""
    others = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    return others | ALLOCATORS[allocator]


def allocator() -> str:
    """How the allocator of this process is set."""
    given = {k: v for k, v in os.environ.items() if k.startswith("MALLOC_")}
    return next(
        (name for name, chosen in ALLOCATORS.items() if chosen == given),
        str(given or "as it comes"),
    )


def with_default_allocator(opts: argparse.Namespace) -> list[report.Entry]:
    """Convolutional workloads again, in a process whose allocator gives freed memory back."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "record.json"
        line = [sys.executable, "-m", "benchmarks", "--allocator-only", "--record", str(path)]
        for option in ("device", "threads", "runs", "seconds"):
            if (value := getattr(opts, option)) is not None:
                line += [f"--{option}", str(value)]
        line += ["--no-peers"] * opts.no_peers
        subprocess.run(line, env=environment(GIVING), cwd=HERE.parent, check=True)
        return list(json.loads(path.read_text())["workloads"])


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    opts = options(arguments)
    full = not (opts.quick or opts.only or opts.contenders or opts.conv or opts.sine)
    start = time.monotonic()
    if not (opts.no_peers or opts.quick):
        for missing in extras.install():
            print(f"could not be installed: {missing}")
    machine = Machine(opts.device, opts.threads)
    effort = Effort(opts.runs, opts.seconds, check=not opts.allocator_only)
    if opts.quick:
        effort = Effort(2, 0)
    limits = machine.limits
    print(f"{machine.name}, {machine.threads} threads, torch {torch.__version__}")
    print(
        f"at best: {limits['flops'] / 1e9:.4g} GFLOP/s in a matrix product, "
        f"{limits['bytes'] / 1e9:.3g} GB/s in a copy, "
        f"{1e6 * limits['dispatch']:.2g} µs an empty operation"
    )
    print(f"allocator: {allocator()}\n")
    print(report.HEAD, flush=True)
    record: dict[str, Any] = {
        "name": machine.slug,
        "title": "A meta-step beside other libraries",
        "command": command(arguments),
        "machine": machine.describe(),
        "allocator": allocator(),
        "workloads": measured(chosen(opts), machine, effort, opts.contenders),
    }
    parts: dict[str, tuple[bool, Callable[[], Any]]] = {
        "growth": (opts.no_growth, lambda: grown(machine, Effort(3, 1, check=False))),
        "with_default_allocator": (opts.no_allocator, lambda: with_default_allocator(opts)),
    }
    if full and not opts.allocator_only:
        for name, (left_out, measure) in parts.items():
            if not left_out:
                record[name] = measure()
    record["wall_seconds"] = round(time.monotonic() - start)
    path = opts.record
    if path is None and full:
        path = HERE.parent / "results" / "benchmarks" / f"{machine.slug}.json"
    if path is not None:
        report.write(path, record)
        print(f"written: {path}")
    if not opts.allocator_only:
        for picture in report.plots(record, opts.plots):
            print(f"drawn: {picture}")
    print(f"{record['wall_seconds']} s in all")


if __name__ == "__main__":
    if not any(name.startswith("MALLOC_") for name in os.environ):  # glibc reads them at its start
        command_line = [sys.executable, "-m", "benchmarks", *sys.argv[1:]]
        os.execve(sys.executable, command_line, environment(KEEPING))
    main()
