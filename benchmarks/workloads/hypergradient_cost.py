"""What each mode of `metanotes.hypergradient` costs: `python -m benchmarks.hypergradient_cost`.

Time (the median of the rounds, all modes in turn) and memory (held at most), as the steps T grow
and as the hyperparameters do; logistic regression with 100 000 parameters. The record goes to
results/hypergradients/cost.json, which a chapter draws. `--peers` also runs the comparison with
other libraries (bilevel.py), into results/hypergradients/peers.json.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import bilevel, extras, report
from benchmarks.measure import Effort, Machine, compare
from metanotes import hypergradient

MODES: dict[str, dict[str, Any]] = {
    "reverse": {"method": "reverse"},
    "reverse, checkpoint": {"method": "reverse", "checkpoint": True},
    "truncated, last 10": {"method": "truncated", "last": 10},
    "forward": {"method": "forward"},
    "conjugate gradients": {"method": "cg", "tolerance": 1e-3},
    "Neumann, 20 terms": {"method": "neumann", "iterations": 20},
}
STEPS = (10, 20, 50, 100, 200)
HYPERPARAMETERS = (1, 2, 5, 10, 20, 50)
FEATURES, CLASSES, EXAMPLES = 1000, 100, 50


def problem(groups: int) -> tuple[Any, ...]:
    """outer, inner, w0 and the hyperparameters: a penalty for each group of features."""
    g = torch.Generator().manual_seed(0)
    x, xv = torch.randn(2, EXAMPLES, FEATURES, generator=g) / FEATURES**0.5
    y, yv = torch.randint(CLASSES, (2, EXAMPLES), generator=g)
    group = torch.arange(FEATURES) % groups

    def inner(w: Tensor, hyper: Tensor) -> Tensor:
        penalty = hyper.exp()[group] @ w.square().sum(1)
        return F.cross_entropy(x @ w, y) + 0.5 * penalty

    def outer(w: Tensor, hyper: Tensor) -> Tensor:
        return F.cross_entropy(xv @ w, yv)

    return outer, inner, torch.zeros(FEATURES, CLASSES), torch.full((groups,), -4.0)


def curve(machine: Machine, values: tuple[int, ...], axis: str, rounds: int) -> dict[str, Any]:
    """Seconds and bytes of every mode at every value."""
    made: dict[str, Any] = {name: {"seconds": [], "bytes": []} for name in MODES}
    for value in values:
        groups, steps = (10, value) if axis == "steps" else (value, 50)
        work = problem(groups)
        calls = {
            name: lambda mode=mode, work=work, steps=steps: hypergradient(
                *work, steps=steps, lr=1.0, **mode
            )
            for name, mode in MODES.items()
        }
        for call in calls.values():
            call()
        times: dict[str, list[float]] = {name: [] for name in MODES}
        for _ in range(rounds):
            for name, call in calls.items():
                times[name].append(machine.seconds(call))
        for name, call in calls.items():
            made[name]["seconds"].append(float(f"{statistics.median(times[name]):.4g}"))
            made[name]["bytes"].append(machine.peak(call))
        print(axis, value, {name: made[name]["seconds"][-1] for name in MODES}, flush=True)
    return {"axis": axis, "values": list(values), "modes": made}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--peers", action="store_true", help="instead, beside other libraries")
    parser.add_argument("--folder", type=Path, default=Path("results/hypergradients"))
    opts = parser.parse_args()
    machine = Machine("cpu", opts.threads)
    record: dict[str, Any] = {"machine": machine.describe()}
    command = f"python -m benchmarks.hypergradient_cost --threads {opts.threads}"
    if opts.peers:
        for missing in extras.install():
            print(f"could not be installed: {missing}")
        record |= {"command": f"{command} --seconds {opts.seconds:g} --peers", "workloads": []}
        for workload in bilevel.standard():
            rows = compare(workload, machine, Effort(5, opts.seconds))
            record["workloads"].append(report.entry(workload, rows))
            print(report.table(record["workloads"][-1]), flush=True)
    else:
        record |= {"command": f"{command} --rounds {opts.rounds}", "parameters": FEATURES * CLASSES}
        record["curves"] = [
            curve(machine, STEPS, "steps", opts.rounds),
            curve(machine, HYPERPARAMETERS, "hyperparameters", opts.rounds),
        ]
    report.write(opts.folder / ("peers.json" if opts.peers else "cost.json"), record)


if __name__ == "__main__":
    main()
