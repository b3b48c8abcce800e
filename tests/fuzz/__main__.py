"""`python -m tests.fuzz --seconds 600`, or `--cases 5000`: random cases, from seed `--first` on.

Prints each case that is wrong, with the seed that makes it again, a line now and then, and counts
at the end: right, refused in words of ours, wrong. Any wrong one makes the exit status 1.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter

from tests.fuzz.cases import case
from tests.fuzz.judge import judge

EVERY = 100  # cases from one line to the next, where the output is no terminal


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, help="how long, about; default: 600, or no limit")
    parser.add_argument("--cases", type=int, help="how many, exactly, unless the time is up")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args(arguments)
    seconds = options.seconds
    if seconds is None:
        seconds = 600 if options.cases is None else math.inf
    most = math.inf if options.cases is None else options.cases
    counts: Counter[str] = Counter()
    failed: list[int] = []
    begin, seed = time.monotonic(), options.first
    while time.monotonic() - begin < seconds and seed < options.first + most:
        _show(f"{_line(counts)}, at seed {seed}")
        verdict = judge(case(seed))
        counts[verdict.outcome] += 1
        if verdict.outcome == "wrong":
            failed.append(seed)
            _show("")
            print(verdict, flush=True)
        seed += 1
        if not sys.stderr.isatty() and (seed - options.first) % EVERY == 0:
            took = time.monotonic() - begin
            print(f"{_line(counts)}, before seed {seed}, {took:.0f} s", file=sys.stderr, flush=True)
    _show("")
    print(f"{sum(counts.values())} cases from seed {options.first}: {_line(counts)}")
    if failed:
        print(
            f"wrong: seeds {', '.join(map(str, failed))}; one again: --first {failed[0]} --cases 1"
        )
    return int(bool(failed))


def _line(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("right", "refused", "wrong"))


def _show(line: str) -> None:
    """A line that takes the place of the last one, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r{line:<70}\r", end="" if line == "" else line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
