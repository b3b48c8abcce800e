"""Make the record of a long run, or go on where it was: `python -m runs sine`.

A record is `results/NAME.json`. What stands there with the same settings is left alone. Under
`torchrun --nproc-per-node 2 -m runs sine` two processes share the jobs.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from metanotes._ground.checkpoints import CheckpointInUseError
from metanotes._ground.checks import count, positive
from metanotes.training import CheckpointError
from runs import (
    architecture_cells,
    augmentation,
    data_policy,
    dataset_distillation,
    distillation,
    domain_separation,
    few_shot,
    few_shot_glyphs,
    few_shot_recipe,
    learned_optimizer,
    learned_optimizer_quadratics,
    masked_words,
    mnist_m,
    sequences_omniglot,
    sine,
    translation,
)
from runs.carry_out import carry_out, chosen, own_share
from runs.record import RESULTS

RUNS = {
    run.name: run
    for run in (
        sine.RUN,
        *few_shot.RUNS,
        few_shot_glyphs.RUN,
        few_shot_recipe.RUN,
        learned_optimizer.RUN,
        learned_optimizer_quadratics.RUN,
        mnist_m.RUN,
        domain_separation.RUN,
        sequences_omniglot.RUN,
        architecture_cells.RUN,
        augmentation.RUN,
        data_policy.RUN,
        distillation.RUN,
        dataset_distillation.RUN,
        masked_words.RUN,
        translation.RUN,
    )
}


def checked(check: Callable[[str], Any]) -> Callable[[str], Any]:
    """A type of argparse whose errors are those of a check."""

    def convert(text: str) -> Any:
        try:
            return check(text)
        except (ValueError, re.error) as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def parser() -> argparse.ArgumentParser:
    """The command line: one set of options for every run."""
    lines = [f"  {run.name:30}{run.line}" for run in RUNS.values()]
    made = argparse.ArgumentParser(
        prog="python -m runs",
        description=__doc__,
        epilog="\n".join(["runs:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    expression = checked(lambda text: re.compile(text).pattern)
    add = made.add_argument
    add("name", choices=RUNS, metavar="NAME", help="one of the runs below")
    add(
        "--seeds",
        type=checked(lambda text: count("seed", int(text), least=0)),
        nargs="+",
        metavar="SEED",
        help="of training; default: those of the run, mostly 0 1 2",
    )
    text = "a regular expression: only"
    add("--learners", type=expression, default="", help=f"{text} what is trained or judged so")
    add("--settings", type=expression, default="", help=f"{text} such settings: '5-way 1-shot'")
    add(
        "--fresh",
        action="store_true",
        help="make the rows again, whatever is there; checkpoints are removed",
    )
    add(
        "--minutes",
        type=checked(lambda text: positive("minutes", float(text))),
        help="stop after so many; the same command, without --fresh, goes on",
    )
    add(
        "--threads",
        type=checked(lambda text: count("threads", int(text))),
        help="that torch may use; default: torch's own choice",
    )
    return made


def main(arguments: Sequence[str] | None = None, folder: Path = RESULTS) -> int:
    """Carry out a run; 0 if it came to its end or to that of its minutes."""
    line = list(sys.argv[1:] if arguments is None else arguments)
    options = vars(parser().parse_args(line))
    run, threads = RUNS[options.pop("name")], options.pop("threads")
    if threads is not None:
        torch.set_num_threads(threads)
    command = "python -m runs " + shlex.join(word for word in line if word != "--fresh")
    fresh, minutes = options.pop("fresh"), options.pop("minutes")
    try:
        jobs = chosen(run, **options)
    except ValueError as error:
        parser().error(str(error))
    if torch.distributed.is_available() and torch.distributed.is_torchelastic_launched():
        jobs = own_share(jobs, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    try:
        done = carry_out(run, jobs, command, fresh=fresh, minutes=minutes, folder=folder)
    except KeyboardInterrupt:
        print(f"interrupted; to go on: {command}", file=sys.stderr)
        return 130
    except FileNotFoundError as error:  # a data set, whose message says how to get it
        print(error, file=sys.stderr)
        return 1
    except CheckpointInUseError as error:
        print(f"{error}\nwhat is done is kept; to go on: {command}", file=sys.stderr)
        return 1
    except CheckpointError as error:
        print(f"{error}\n--fresh removes it", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a folder that cannot be written to
        print(f"{error}\nwhat is done is kept; to go on: {command}", file=sys.stderr)
        return 1
    print("all done" if done else f"the minutes are over; to go on: {command}", flush=True)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops as Ctrl+C does
    sys.exit(main())
