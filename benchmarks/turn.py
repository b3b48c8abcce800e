"""One process of a comparison of checkouts, see `against.py`.

    python -m benchmarks.turn FOLDER WORKLOAD CONTENDER OPTIONS...

metanotes is that of FOLDER, the work that of this checkout. It answers with lines of JSON: one when
it is ready, then one to each line that it reads, "seconds" (of a turn) or "bytes" (held at most).
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import options
from benchmarks.machine import Machine
from benchmarks.measure import TURN, prepared


def take_metanotes(folder: Path) -> None:
    """Import the package of that checkout, before anything else imports another."""
    sys.path.insert(0, str(folder))
    package = importlib.import_module("metanotes")
    sys.path.pop(0)
    if Path(str(package.__file__)).resolve().parent.parent != folder.resolve():
        raise ImportError(f"metanotes was imported from elsewhere than {folder}")


def answers(folder: Path, name: str, contender: str, arguments: list[str]) -> None:
    """Prepare the contender, then answer; what else is printed goes to stderr."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(**what: Any) -> None:
        print(json.dumps(what), file=out)

    try:
        take_metanotes(folder)
        opts = options.parse(arguments)
        machine = Machine(opts.device, opts.threads)
        missing: list[str] = []
        works = {workload.name: workload for workload in options.chosen(opts, missing)}
        if name not in works:
            raise ImportError("; ".join(missing) or f"no workload {name!r}")
        work = works[name].work(torch.float32, machine.device)
        step, _ = prepared(works[name], contender, work, machine, options.effort(opts))
    except Exception as error:
        answer(note=f"{type(error).__name__}: {error}")
        return
    answer(ready=True)
    for line in sys.stdin:
        if line.strip() == "bytes":
            answer(bytes=machine.peak(step))
        else:
            answer(seconds=machine.seconds(step, TURN))


if __name__ == "__main__":
    answers(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
