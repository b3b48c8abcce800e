"""Two checkouts in one sitting: `python -m benchmarks --against FOLDER`.

Our own contenders, once with the metanotes of this checkout (new) and once with that of another
(old), each in a process of its own. The two take turns, so that whatever else the machine does
meets both alike; a round is a fresh pair of processes, since how memory lies differs from process
to process. A ratio is new over old: 1.03 means 3 % slower.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import allocator, options, report
from benchmarks.machine import Machine
from benchmarks.measure import Effort, quartiles

ROOT = Path(__file__).parent.parent
SLOWER = 1.03  # a ratio from which a change counts
SIDES = ("old", "new")


@dataclass
class Pair:
    """What the two did with one contender of one workload.

    Args:
        workload: its name.
        contender: its name.
        seconds: by side, of every turn.
        bytes: by side, held at most.
        note: why there is nothing of the above.
    """

    workload: str
    contender: str
    seconds: dict[str, list[float]] = field(default_factory=lambda: {side: [] for side in SIDES})
    bytes: dict[str, int | None] = field(default_factory=dict)
    note: str = ""

    def ratios(self) -> tuple[float, float, float]:
        """Quartiles of new over old, turn by turn."""
        both = zip(self.seconds["new"], self.seconds["old"], strict=True)
        return quartiles([new / old for new, old in both])

    @property
    def slower(self) -> bool:
        """Whether the new one is slower by more than counts."""
        return not self.note and self.ratios()[1] > SLOWER


class Turns:
    """A process that takes its turns when asked, see `turn.py`."""

    def __init__(self, folder: Path, pair: Pair, arguments: list[str]) -> None:
        line = [sys.executable, "-m", "benchmarks.turn", str(folder)]
        line += [pair.workload, pair.contender, *arguments]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(line, stdin=pipe, stdout=pipe, text=True, cwd=ROOT)

    def answer(self) -> dict[str, Any]:
        """The next line it says."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"note": f"it ended with {self.process.wait()}"}

    def ask(self, what: str) -> Any:
        """Its "seconds" of a turn, or "bytes"."""
        assert self.process.stdin
        print(what, file=self.process.stdin, flush=True)
        answer = self.answer()
        if what not in answer:
            raise RuntimeError(answer.get("note", str(answer)))
        return answer[what]


@contextmanager
def taking_turns(folder: Path, pair: Pair, arguments: list[str]) -> Iterator[Turns]:
    """A process, ended at the end; it is not waited for until it is asked."""
    turns = Turns(folder, pair, arguments)
    try:
        yield turns
    finally:
        turns.process.kill()
        turns.process.communicate()


def measure(pair: Pair, folders: dict[str, Path], effort: Effort, arguments: list[str]) -> None:
    """Let both take turns, in as many rounds as there are `runs`.

    Raises:
        RuntimeError: one of them cannot do the work.
    """
    for _ in range(effort.runs):
        with ExitStack() as stack:
            sides = {
                side: stack.enter_context(taking_turns(folders[side], pair, arguments))
                for side in SIDES
            }
            answers = {side: turns.answer() for side, turns in sides.items()}
            notes = [f"{side}: {a['note']}" for side, a in answers.items() if "note" in a]
            if notes:
                raise RuntimeError("; ".join(notes))
            start = time.perf_counter()
            done = 0
            while done < 2 or time.perf_counter() - start < effort.seconds / effort.runs:
                for side in SIDES if done % 2 else reversed(SIDES):
                    pair.seconds[side].append(sides[side].ask("seconds"))
                done += 1
            pair.bytes = {side: turns.ask("bytes") for side, turns in sides.items()}


def kept(pair: Pair) -> report.Entry:
    """What the record keeps: milliseconds, megabytes, and ratios of new to old."""
    entry: report.Entry = {"workload": pair.workload, "contender": pair.contender}
    if pair.note:
        return entry | {"note": pair.note}
    entry["ratio"] = [report.rounded(q) for q in pair.ratios()]
    entry["turns"] = len(pair.seconds["new"])
    for side in SIDES:
        entry[f"{side}_ms"] = [report.rounded(1e3 * q) for q in quartiles(pair.seconds[side])]
        size = pair.bytes[side]
        entry[f"{side}_peak_mb"] = None if size is None else report.rounded(size / 1e6)
    return entry


HEAD = (
    f"{'':28}{'ratio':>7}  {'(quartiles)':18}{'ms, old':>10}{'new':>10}{'MB, old':>10}{'new':>10}"
)


def line(pair: Pair) -> str:
    """A line of the table."""
    text = f"  {pair.contender:26}"
    if pair.note:
        return f"{text}  left out: {pair.note}"
    low, middle, high = pair.ratios()
    text += f"{middle:7.3f}  {f'({low:.3f} to {high:.3f})':18}"
    text += "".join(f"{1e3 * quartiles(pair.seconds[side])[1]:10.4g}" for side in SIDES)
    sizes = [pair.bytes[side] for side in SIDES]
    text += "".join(f"{'' if size is None else f'{size / 1e6:.1f}':>10}" for size in sizes)
    return text + ("  SLOWER" if pair.slower else "")


def compare_checkouts(opts: argparse.Namespace, arguments: list[str]) -> list[Pair]:
    """Measure, print and record.

    Args:
        opts: of the command; `contenders` chooses among our own, by default all but compiled ones.
        arguments: the command's, for the processes.

    Raises:
        SystemExit: there is no metanotes in the other folder.
    """
    folders = {"old": opts.against.resolve(), "new": ROOT}
    if not (folders["old"] / "metanotes" / "__init__.py").exists():
        raise SystemExit(f"--against {opts.against}: it has no folder metanotes/")
    commits = {side: report.commit(folder) for side, folder in folders.items()}
    machine = Machine(opts.device, opts.threads)
    print(f"{report.device_name(machine)}, {machine.threads} threads, torch {torch.__version__}")
    print(f"new: {commits['new'] or 'no commit'}, old: {commits['old'] or 'no commit'}\n\n{HEAD}")
    wanted = re.compile(opts.contenders or "^(?!.*compiled)")  # which takes minutes, every time
    pairs = []
    for workload in options.chosen(opts):
        print(workload.name, flush=True)
        for name in filter(wanted.search, workload.own):
            pair = Pair(workload.name, name)
            try:
                measure(pair, folders, options.effort(opts), arguments)
            except (OSError, RuntimeError) as error:
                pair.note = str(error)
            print(line(pair), flush=True)
            pairs.append(pair)
    slower = sum(pair.slower for pair in pairs)
    print(f"\n{slower} of {len(pairs)} are slower by more than {100 * (SLOWER - 1):.0f} %")
    if opts.record:
        record = {
            "command": options.command(arguments),
            "commits": commits,
            "machine": report.describe(machine),
            "allocator": allocator.setting(),
            "workloads": [kept(pair) for pair in pairs],
        }
        report.write(opts.record, record)
        print(f"written: {opts.record}")
    return pairs
