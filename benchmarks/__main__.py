"""`python -m benchmarks`: metanotes beside its peers. The options are in `options.py`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import allocator, extras, options, pictures, report
from benchmarks.against import compare_checkouts
from benchmarks.floor import floor
from benchmarks.machine import Machine
from benchmarks.measure import Curve, Effort, Workload, compare

ROOT = Path(__file__).parent.parent


def measured(
    chosen: list[Workload], machine: Machine, effort: Effort, contenders: str
) -> list[report.Entry]:
    """Measure the workloads, printing each as it is done."""
    entries = []
    for n, workload in enumerate(chosen, start=1):
        print(f"{n} of {len(chosen)}: ", end="", flush=True)
        rows = compare(workload, machine, effort, contenders)
        entries.append(report.entry(workload, rows, floor(workload, machine)))
        print(report.table(entries[-1]), flush=True)
    return entries


def grown(curves: list[Curve], machine: Machine) -> dict[str, list[Any]]:
    """Time and memory along the curves: what the sections of the record keep of them."""
    sections: dict[str, list[Any]] = {}
    for curve in curves:
        points: list[tuple[int, report.Entry]] = []
        for value in curve.values:
            workload = curve.at(value)
            rows = compare(workload, machine, Effort(3, 1, check=False))
            points.append((value, report.entry(workload, rows)))
            print(f"{curve.name}: {report.table(points[-1][1])}", flush=True)
        section = sections.setdefault(curve.section, [])
        if curve.section == "curves":
            section.append(report.curve(curve.axis, points))
        else:
            section += [{"axis": curve.axis, "value": value, **entry} for value, entry in points]
    return sections


def with_default_allocator(opts: argparse.Namespace) -> list[report.Entry]:
    """Convolutional workloads again, in a process whose allocator gives freed memory back."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "record.json"
        line = [sys.executable, "-m", "benchmarks", "--allocator-only", "--record", str(path)]
        for option in ("device", "threads", "runs", "seconds"):
            if (value := getattr(opts, option)) is not None:
                line += [f"--{option}", str(value)]
        line += ["--no-peers"] * opts.no_peers
        environment = allocator.environment(allocator.GIVING)
        subprocess.run(line, env=environment, cwd=ROOT, check=True)
        return list(json.loads(path.read_text(encoding="utf-8"))["workloads"])


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, draw and record."""
    arguments = sys.argv[1:] if arguments is None else arguments
    opts = options.parse(arguments)
    if opts.against:
        compare_checkouts(opts, arguments)
        return
    chosen, curves = options.chosen(opts), options.curves(opts)
    if not (chosen or curves):
        raise SystemExit(f"--only {opts.only}: no workload has such a name")
    start, full = time.monotonic(), options.is_full(opts)
    if not (opts.no_peers or opts.quick):
        for missing in extras.install():
            print(f"could not be installed: {missing}")
    machine = Machine(opts.device, opts.threads)
    limits = machine.limits
    print(f"{report.device_name(machine)}, {machine.threads} threads, torch {torch.__version__}")
    print(
        f"at best: {limits['flops'] / 1e9:.4g} GFLOP/s in a matrix product, "
        f"{limits['bytes'] / 1e9:.3g} GB/s in a copy, "
        f"{1e6 * limits['dispatch']:.2g} µs an empty operation"
    )
    print(f"allocator: {allocator.setting()}\n\n{report.HEAD}", flush=True)
    record: dict[str, Any] = {
        "name": report.slug(machine),
        "title": "metanotes beside its peers",
        "command": options.command(arguments),
        "commit": report.commit(ROOT),
        "machine": report.describe(machine),
        "allocator": allocator.setting(),
        "workloads": measured(chosen, machine, options.effort(opts), opts.contenders),
        **grown(curves, machine),
    }
    if full and not opts.no_allocator:
        record["with_default_allocator"] = with_default_allocator(opts)
    record["wall_seconds"] = round(time.monotonic() - start)
    path = opts.record
    if path is None and full:
        path = ROOT / "results" / "benchmarks" / f"{record['name']}.json"
    if path is not None:
        report.write(path, record)
        print(f"written: {path}")
    if not opts.allocator_only:
        for picture in pictures.plots(record, opts.plots):
            print(f"drawn: {picture}")
    print(f"{record['wall_seconds']} s in all")


if __name__ == "__main__":
    if not allocator.variables():  # glibc reads them at its start
        line = [sys.executable, "-m", "benchmarks", *sys.argv[1:]]
        os.execve(sys.executable, line, allocator.environment(allocator.KEEPING))
    main()
