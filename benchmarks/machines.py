"""How cost grows: with tasks, ways and images, with what phi is, and with the number of machines.

    python -m benchmarks.machines                     # all of it, some ten minutes
    python -m benchmarks.machines --only large        # a section again

The record is results/machines/growth.json, which the page *From one core to many machines* draws.
Time is that of the processor, of all its cores together, the least of a few rounds, in which the
contenders take turns: what else runs on the machine changes it little. The speed of several ranks
is a matter of the clock, and measured apart: `python tools/ranks.py --record`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks import large, report
from benchmarks.machine import Machine
from benchmarks.measure import OURS, REFERENCE
from benchmarks.meta_step import moved_to
from benchmarks.peers import some
from benchmarks.workloads.convolutional import conv
from metanotes import MAML
from metanotes._ground.machine import cores, processor, versions

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "results" / "machines" / "growth.json"
AXES = {"tasks": (1, 2, 4, 8, 16), "ways": (5, 10, 20, 40), "size": (28, 56, 84)}
BASE = {"tasks": 4}  # but for one of them; 5-way 1-shot, 15 queries a class, 28x28, 64 channels
ROUNDS = 3
SMALL_AXES = {"tasks": (1, 2), "ways": (2, 3), "size": (16, 20)}
SMALL_BASE = {"tasks": 1, "ways": 2, "queries": 1, "width": 2, "size": 16}

Row = dict[str, Any]


def growth(small: bool) -> Iterator[Row]:
    """Time and memory of a meta-step of MAML along each axis, beside the plain loop."""
    machine = Machine(threads=1)
    for axis, values in (SMALL_AXES if small else AXES).items():
        for value in values:
            settings: Any = {**(SMALL_BASE if small else BASE), axis: value}
            workload = conv(**settings, contenders=some(REFERENCE, OURS))
            work = workload.work(torch.float32, machine.device)
            steps = {name: make(work) for name, make in workload.contenders.items()}
            for step in steps.values():
                step()  # at the first sight a plan is made
            seconds = processor_seconds(steps, 1 if small else ROUNDS)
            for name, step in steps.items():
                yield {
                    "axis": axis,
                    "value": value,
                    "contender": name,
                    "processor_seconds": seconds[name],
                    "peak_mb": megabytes(machine.peak(step)),
                }


def processor_seconds(steps: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The least of a few rounds, in which all take turns."""
    least = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.process_time()
            step()
            least[name] = min(least[name], time.process_time() - start)
    return {name: report.rounded(seconds) for name, seconds in least.items()}


def megabytes(peak: int | None) -> float | None:
    return None if peak is None else report.rounded(peak / 1e6)


def networks(small: bool) -> Iterator[Row]:
    """P, and what a task's meta-gradient takes: counted, and measured on small tasks."""
    machine = Machine(threads=1)
    for name, network in (small_networks() if small else dict(large.NETWORKS)).items():
        measured = network if small else MEASURED.get(name, network)
        learner = MAML(measured.make(), 0.01)
        tasks = moved_to(measured.tasks(1, 1), torch.float32, machine.device)
        seconds: dict[str, float] = {}

        def step(learner: MAML = learner, tasks: Any = tasks) -> None:
            learner.zero_grad()
            learner(tasks).mean().backward()

        def timed(step: Callable[[], None] = step, to: dict[str, float] = seconds) -> None:
            to |= processor_seconds({"step": step}, 1)

        step()  # at the first sight a plan is made
        peak = megabytes(machine.peak(timed))
        yield {
            "network": name,
            "parameters": large.parameters(learner.model),
            "flops": large.flops(network, queries=15),
            "flops_measured": large.flops(measured, queries=1),
            "processor_seconds": seconds["step"],
            "peak_mb": peak,
        }


# On a processor, for the time: the same P on smaller images and shorter sentences.
MEASURED = {
    "ResNet-12, 84x84": large.residual(28),
    "transformer, 64 words": large.transformer(16),
}


def small_networks() -> dict[str, large.Network]:
    return {
        "conv4": large.convolutional(width=2),
        "transformer": large.transformer(length=4, width=8, layers=1),
    }


def large_phi(small: bool) -> Iterator[Row]:
    """What each way of working holds and takes; on small images and short sentences, for the time.

    What is large is phi.
    """
    every = {
        "ResNet-12, 16x16": large.residual(16),
        "transformer, 8 words": large.transformer(8),
    }
    if small:
        every = {"transformer": large.transformer(length=4, width=8, layers=1)}
    machine = Machine(threads=1)
    for name, network in every.items():
        yield from large.rows(name, network, machine, tasks=2, queries=1, steps=2)


def messages(small: bool) -> Iterator[Row]:
    """The gradient of each network, added up over two processes of this machine (gloo)."""
    every = small_networks() if small else large.NETWORKS
    sizes = {name: large.parameters(network.make()) for name, network in every.items()}
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line += ["-m", "benchmarks.machines", "--rank", json.dumps(sizes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        line, env=environment, cwd=ROOT, check=True, capture_output=True, text=True
    )
    yield from json.loads(done.stdout.strip().splitlines()[-1])


def rank(sizes: dict[str, int]) -> None:
    """One of the two processes; the first prints the rows."""
    torch.distributed.init_process_group("gloo")
    rows = []
    for name, size in sizes.items():
        numbers, seconds = torch.zeros(size), []
        for _ in range(6):
            torch.distributed.barrier()
            start = time.perf_counter()
            torch.distributed.all_reduce(numbers)
            seconds.append(time.perf_counter() - start)
        rows.append({"network": name, "bytes": 4 * size, "seconds": report.rounded(min(seconds))})
    if torch.distributed.get_rank() == 0:
        print(json.dumps(rows), flush=True)
    torch.distributed.destroy_process_group()


SECTIONS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "growth": growth,
    "networks": networks,
    "messages": messages,
    "large": large_phi,
}


def main(arguments: list[str] | None = None) -> None:
    """Measure the sections, and write each row as it comes."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.machines", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--only", default="", metavar="REGEX", help=f"sections: {', '.join(SECTIONS)}")
    add("--small", action="store_true", help="small ones, to see that all works")
    add("--record", type=Path, default=RECORD, help="the file")
    add("--rank", type=json.loads, help=argparse.SUPPRESS)  # a process of `messages`
    opts = parser.parse_args(arguments)
    if opts.rank:
        rank(opts.rank)
        return
    kept = json.loads(opts.record.read_text(encoding="utf-8")) if opts.record.exists() else {}
    record = {"title": "How cost grows", "command": "python -m benchmarks.machines", **kept}
    record.setdefault("sections", {})
    for name, section in SECTIONS.items():
        if not re.search(opts.only, name):
            continue
        rows: list[Row] = []
        record["sections"][name] = {
            "commit": report.commit(ROOT),
            "processor": processor(),
            "cores": cores(),
            **versions(),
            "rows": rows,
        }
        for row in section(opts.small):
            rows.append(row)
            print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            opts.record.parent.mkdir(parents=True, exist_ok=True)
            report.write(opts.record, record)


if __name__ == "__main__":
    main()
