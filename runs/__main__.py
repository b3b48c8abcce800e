"""`python -m runs sine`: make the records that are named."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from runs import few_shot, learned_optimizer, mnist_m
from runs.omniglot_maml import omniglot_5way_1shot
from runs.sine import sine

RUNS: dict[str, Callable[[], None]] = {
    "sine": sine,
    "omniglot": omniglot_5way_1shot,
    "learned_optimizer": learned_optimizer.on_mnist,
    "learned_optimizer_quadratics": learned_optimizer.on_quadratics,
}


def main(arguments: list[str] | None = None) -> None:
    """Make the records that are named."""
    parser = argparse.ArgumentParser(prog="python -m runs", description=__doc__)
    add = parser.add_argument
    add("name", choices=[*RUNS, "mnist_m", *few_shot.DATA])
    add("--threads", type=int, help="threads that torch may use")
    text = "of few-shot records: only these, by a regular expression"
    add("--learners", default="", help=text)
    add("--settings", default="", help=f"{text}; '5-way 1-shot' and so on")
    text = "of few-shot records and of mnist_m"
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help=text)
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.name in RUNS:
        RUNS[options.name]()
    elif options.name == "mnist_m":
        mnist_m.on_mnist_m(options.seeds)
    else:
        few_shot.run(options.name, options.learners, options.settings, options.seeds)


if __name__ == "__main__":
    main()
