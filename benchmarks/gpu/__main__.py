"""`python -m benchmarks.gpu`: each part in a process of its own, until the time is over."""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import torch

from benchmarks import report
from benchmarks.gpu.parts import PARTS, Part
from benchmarks.gpu.record import DONE, FAILED, LEFT_OUT, TOO_LONG, Record
from benchmarks.gpu.setting import Setting
from benchmarks.machine import Machine

ROOT = Path(__file__).resolve().parents[2]
LEAST = 10.0  # seconds that a part is started with
DESCRIPTION = """What a GPU makes of metanotes, in eight minutes: `make gpu`. The tests, the
benchmark, ways of working, trainings; a part that fails is recorded as failed, and the next goes
on. The record is written as it goes, to results/gpu/DEVICE.json."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of a command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=DESCRIPTION)
    add = parser.add_argument
    add("--device", default="cuda", help="cuda, cuda:1, ...; cpu to see that all works")
    add("--small", action="store_true", help="small work, to see that all works")
    add("--minutes", type=float, default=8.0, help="all of it ends by then")
    add("--started", type=float, help="when the minutes began, in seconds since 1970; default: now")
    add("--only", default="", metavar="REGEX", help="parts whose names this finds")
    add("--record", type=Path, help="the file; default: in results/gpu/")
    add("--part", choices=[part.name for part in PARTS], help=argparse.SUPPRESS)  # a process of it
    add("--seconds", type=float, default=60.0, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def run_part(opts: argparse.Namespace) -> None:
    """One part, in this process."""
    (part,) = (part for part in PARTS if part.name == opts.part)
    record, start = Record(opts.record), time.monotonic()
    threads = 1 if opts.small else None
    setting = Setting(Machine(opts.device, threads), opts.small, start + opts.seconds)
    try:
        for row in part.rows(setting):
            record.add(part.name, row)
            print(f"  {in_short(row)}", flush=True)
    except Exception as error:
        traceback.print_exc()
        seconds = time.monotonic() - start
        record.end(part.name, FAILED, seconds, f"{type(error).__name__}: {error}")
        raise SystemExit(1) from error


def in_short(row: dict[str, object]) -> str:
    """A line for whoever watches."""
    if "contenders" in row:
        return report.table(row).rstrip().replace("\n", "\n  ")
    return ", ".join(f"{key} {value}" for key, value in row.items() if key != "curve")


def started(part: Part, opts: argparse.Namespace, record: Record, seconds: float) -> None:
    """A part in a process of its own, ended with all of its children when its time is over."""
    line = [sys.executable, "-m", "benchmarks.gpu", "--part", part.name, "--device", opts.device]
    line += ["--record", str(record.path), "--seconds", f"{seconds:.0f}", *["--small"] * opts.small]
    start = time.monotonic()
    process = subprocess.Popen(
        line, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        _, told = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        end_group(process)
        record.end(part.name, TOO_LONG, time.monotonic() - start)
        return
    except BaseException:
        end_group(process)
        raise
    status = DONE if process.returncode == 0 else FAILED
    last = told.strip().splitlines()[-1] if told.strip() else f"it ended with {process.returncode}"
    record.end(part.name, status, time.monotonic() - start, "" if status == DONE else last)


def end_group(process: subprocess.Popen[str]) -> None:
    """End a process and those that it has started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def main(arguments: list[str] | None = None) -> None:
    """Run the parts, or the one that is asked for."""
    arguments = sys.argv[1:] if arguments is None else arguments
    opts = parse(arguments)
    if opts.part:
        run_part(opts)
        return
    if torch.device(opts.device).type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "torch sees no CUDA device here; `--device cpu --small` shows what would be done"
        )
    end = (opts.started or time.time()) + 60 * opts.minutes
    machine = Machine(opts.device)
    name = report.device_name(machine)
    record = Record(opts.record or ROOT / "results" / "gpu" / f"{report.slug(machine)}.json")
    told = [a for a in arguments if not a.startswith("--started")]
    record.write(
        {
            "title": "metanotes on a GPU",
            "command": " ".join(["python -m benchmarks.gpu", *told]).strip(),
            "commit": report.commit(ROOT),
            "device": name,
            "parts": [],
        }
    )
    print(f"{name}, torch {torch.__version__}; written as it goes: {record.path}", flush=True)
    start = time.monotonic()
    for part in PARTS:
        if not re.search(opts.only, part.name):
            continue
        record.begin(part.name, part.about)
        seconds = min(part.seconds, end - time.time())
        print(f"{part.name}: {part.about}", flush=True)
        if seconds < LEAST:
            record.end(part.name, LEFT_OUT, 0.0, "no time was left")
        else:
            started(part, opts, record, seconds)
        kept = record.read()["parts"][-1]
        error = f", {kept['error']}" if "error" in kept else ""
        print(f"{part.name}: {kept['status']}, {kept['seconds']} s{error}\n", flush=True)
    record.set(wall_seconds=round(time.monotonic() - start))


if __name__ == "__main__":
    main()
