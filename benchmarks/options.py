"""All options of `python -m benchmarks`, and the work that they choose."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

from benchmarks.measure import Curve, Effort, Workload
from benchmarks.workloads import offered

HERE = Path(__file__).parent
DESCRIPTION = """Measure metanotes beside its peers: `make bench`.

Times are medians with quartiles; a ratio is a contender's time over metanotes' in the same round,
so that 2 means that metanotes takes half as long. A contender whose result in float64 is not that
of the plain loop to 1e-10 is marked WRONG. Memory is what was held at most during one step. The
record goes to results/benchmarks/, the pictures to benchmarks/plots/.
"""


def settings(text: str) -> dict[str, Any]:
    """`"tasks=32,pool=max"` as arguments of a workload."""
    pairs = (pair.split("=") for pair in text.split(",") if pair)
    return {k: int(v) if v.lstrip("-").isdigit() else v for k, v in pairs}


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of a command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=DESCRIPTION)
    add = parser.add_argument
    add("--device", default="cpu", help="cpu or cuda")
    add("--threads", type=int, help="of the processor; default: all cores")
    add("--runs", type=int, default=5, help="rounds of each workload at least")
    add("--seconds", type=float, default=8, help="go on for so long with each workload")
    text = "what this regular expression finds in FILE/NAME, FILE of benchmarks/workloads/"
    add("--only", default="", metavar="REGEX", help=text)
    text = "likewise contenders; metanotes is always one"
    add("--contenders", default="", metavar="REGEX", help=text)
    for name, file in (("conv", "convolutional"), ("sine", "sine")):
        text = f"this instead of the standard ones, e.g. tasks=32,steps=5; see {file}.py"
        add(f"--{name}", action="append", default=[], type=settings, help=text)
    add("--quick", action="store_true", help="small ones, to see that all works")
    text = "instead: metanotes of another checkout, in that folder, beside this one"
    add("--against", type=Path, metavar="FOLDER", help=text)
    add("--no-peers", action="store_true", help="leave out the peers that need installing")
    add("--no-growth", action="store_true", help="leave out the curves of how cost grows")
    add("--no-allocator", action="store_true", help="leave out the second allocator setting")
    add("--allocator-only", action="store_true", help=argparse.SUPPRESS)  # the process for it
    add("--plots", type=Path, default=HERE / "plots", help="folder for the pictures")
    text = "file; default: of a full run, in results/benchmarks/"
    add("--record", type=Path, help=text)
    return parser.parse_args(arguments)


def command(arguments: list[str]) -> str:
    """What gives the record again; paths outside results/ are this machine's, and left out."""
    kept, rest = [], iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name not in ("--record", "--plots", "--against"):
            kept.append(argument)
            continue
        value = value if equals else next(rest, "")
        if value.startswith("results/"):
            kept += [name, value]
    return shlex.join(["python", "-m", "benchmarks", *kept])


def is_full(options: argparse.Namespace) -> bool:
    """Whether all of the standard work is measured."""
    o = options
    return not (o.quick or o.only or o.contenders or o.conv or o.sine or o.allocator_only)


def effort(options: argparse.Namespace) -> Effort:
    """How long to measure."""
    if options.quick:
        return Effort(2, 0, warm=0)
    return Effort(options.runs, options.seconds, check=not options.allocator_only)


def chosen(options: argparse.Namespace, missing: list[str] | None = None) -> list[Workload]:
    """The workloads that were asked for; `missing` as of `workloads.offered`."""
    if options.conv or options.sine:
        from benchmarks.workloads.convolutional import conv
        from benchmarks.workloads.sine import sine

        return [conv(**s) for s in options.conv] + [sine(**s) for s in options.sine]
    kind = "standard"
    if options.quick or options.allocator_only:
        kind = "quick" if options.quick else "allocation"
    every = offered(kind, missing)
    return [work for name, work in every if re.search(options.only, name)]


def curves(options: argparse.Namespace) -> list[Curve]:
    """The curves that were asked for."""
    other = options.quick or options.conv or options.sine or options.allocator_only
    if other or options.no_growth:
        return []
    return [curve for name, curve in offered("curves") if re.search(options.only, name)]
