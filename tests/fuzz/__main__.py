"""`python -m tests.fuzz --seconds 600 --first 0`: random cases, as many as there is time for.

Prints each case that is wrong, with the seed that makes it again, and counts at the end.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.fuzz.cases import case
from tests.fuzz.judge import judge


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long, about")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--cases", type=int, default=10**9, help="how many at most")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    begin, seed = time.monotonic(), options.first
    while time.monotonic() - begin < options.seconds and seed < options.first + options.cases:
        verdict = judge(case(seed))
        counts[verdict.outcome] += 1
        if verdict.outcome == "wrong":
            _show("")
            print(verdict, flush=True)
        seed += 1
        _show(f"{_line(counts)}, next seed {seed}")
    _show("")
    print(f"{sum(counts.values())} cases from seed {options.first}: {_line(counts)}")
    return int(counts["wrong"] > 0)


def _line(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("right", "refused", "wrong"))


def _show(line: str) -> None:
    """A line that takes the place of the last one, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r{line:<70}\r", end="" if line == "" else line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
