"""The speed of several processes that share the tasks, beside one process with as many threads.

    python tools/ranks.py                 # two ranks, conv4 with 64 channels, 16 tasks
    python tools/ranks.py --ranks 4 --iterations 50
    python tools/ranks.py --record        # into results/machines/ranks.json, which the page shows

Both take turns, and nothing else may run meanwhile. Printed are the seconds of an iteration, what
drawing the tasks takes of that, and the ratio of the medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

WARM_UP = 3
ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "results" / "machines" / "ranks.json"


def measure(iterations: int, tasks: int) -> None:
    """Print the seconds of an iteration in this process, and of drawing its tasks."""
    import torch

    from metanotes import MAML, meta_train
    from metanotes.data import episodes, glyphs
    from metanotes.nets import conv4

    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")
    sampler = episodes(glyphs("background"), ways=5, shots=1, queries=15, seed=0)
    drawing: list[float] = []
    ends: list[float] = []

    def sample(tasks: int) -> object:
        start = time.perf_counter()
        drawn = sampler(tasks)
        drawing.append(time.perf_counter() - start)
        return drawn

    learner = MAML(conv4(ways=5), inner_lr=0.4)
    meta_train(
        learner, sample, WARM_UP + iterations, tasks, progress=False,
        callback=lambda *_: ends.append(time.perf_counter()),
    )  # fmt: skip
    if ends:
        seconds = (ends[-1] - ends[WARM_UP - 1]) / iterations
        print(json.dumps({"seconds": seconds, "drawing": statistics.median(drawing)}), flush=True)
    if "RANK" in os.environ:
        torch.distributed.destroy_process_group()


def run(ranks: int, threads: int, options: list[str]) -> dict[str, float]:
    """The same in new processes."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [sys.executable, *(torchrun if ranks > 1 else []), __file__, "--worker", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    numbers: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.relative_to(ROOT)}")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        measure(options.iterations, options.tasks)
        return
    passed = ["--iterations", str(options.iterations), "--tasks", str(options.tasks)]
    seconds: dict[str, list[float]] = {"one process": [], "ranks": []}
    drawing: list[float] = []
    for _ in range(options.rounds):
        for name, ranks in (("one process", 1), ("ranks", options.ranks)):
            numbers = run(ranks, options.ranks // ranks, passed)
            seconds[name].append(numbers["seconds"])
            drawing.append(numbers["drawing"])
            parts = f"{numbers['seconds']:.4f} s, of which drawing {numbers['drawing']:.4f} s"
            print(f"{name}: {parts}", flush=True)
    one, several = (statistics.median(values) for values in seconds.values())
    print(f"{options.ranks} ranks are {one / several:.2f} times as fast as one process")
    if options.record:
        write(options, drawing, {"one process": one, "ranks": several})


def write(options: argparse.Namespace, drawing: list[float], medians: dict[str, float]) -> None:
    """The record, beside what it was measured on."""
    from metanotes._ground.files import write_text
    from metanotes._ground.machine import cores, processor, versions

    record = {
        "command": "python tools/ranks.py --record",
        "processor": processor(),
        "cores": cores(),
        **versions(),
        "ranks": options.ranks,
        "tasks": options.tasks,
        "rounds": options.rounds,
        "network": "conv4, 28x28",
        "seconds": {name: round(value, 4) for name, value in medians.items()},
        "drawing_seconds": round(statistics.median(drawing), 4),
    }
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    write_text(RECORD, json.dumps(record, indent=1) + "\n")
    print(f"written: {RECORD.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
