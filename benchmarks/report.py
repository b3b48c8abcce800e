"""The table and the record of a run.

A record has the machine, the command, the allocator; `workloads`, an `Entry` each; `growth`, the
entries of the curves of a meta-step, each with its `axis` and `value`; `curves`, the others, in the
form of `curve`; and `with_default_allocator`, entries again.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.floor import Floor
from benchmarks.machine import Machine
from benchmarks.measure import Row, Workload, quartiles
from metanotes._ground.files import write_text
from metanotes._ground.machine import processor

Entry = dict[str, Any]  # a workload's part of the record


def device_name(machine: Machine) -> str:
    """The name of the GPU, or of the processor."""
    if machine.device.type == "cuda":
        return torch.cuda.get_device_name(machine.device)
    return processor()


def slug(machine: Machine) -> str:
    """The machine as a file name."""
    threads = "" if machine.device.type == "cuda" else f"-{machine.threads}-threads"
    return re.sub(r"[^a-z0-9]+", "-", device_name(machine).lower()).strip("-") + threads


def describe(machine: Machine) -> dict[str, Any]:
    """The machine, for the record."""
    return {
        "device": device_name(machine),
        "processor": processor(),
        "threads": machine.threads,
        "product_gflop_per_s": round(machine.limits["flops"] / 1e9, 1),
        "copy_gb_per_s": round(machine.limits["bytes"] / 1e9, 1),
        "operation_us": round(1e6 * machine.limits["dispatch"], 2),
        "torch": torch.__version__.split("+")[0],
        "python": platform.python_version(),
    }


def commit(checkout: Path) -> str:
    """Which commit a checkout is at, "-dirty" where files differ from it; "" where it is none."""
    line = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def entry(workload: Workload, rows: Sequence[Row], floor: Floor | None = None) -> Entry:
    """What is kept of a workload: milliseconds, megabytes, and ratios to our own time."""
    ours = next(row.seconds for row in rows if row.contender == workload.ours)
    result: Entry = {"workload": workload.name, "ratio_to": workload.ours, "contenders": []}
    for row in rows:
        kept: Entry = {"name": row.contender}
        if row.error is not None:
            kept |= {"error": row.error, "wrong": row.wrong}
        if row.seconds:
            kept["ms"] = [rounded(1e3 * q) for q in quartiles(row.seconds)]
            kept["runs"] = len(row.seconds)
        if row.seconds and ours:
            pairs = zip(row.seconds, ours, strict=True)
            kept["ratio"] = [rounded(q) for q in quartiles([a / b for a, b in pairs])]
        if row.first is not None:
            kept["first_ms"] = rounded(1e3 * row.first)
        if row.peak is not None:
            kept["peak_mb"] = rounded(row.peak / 1e6)
        if row.note:
            kept["note"] = row.note
        result["contenders"].append(kept)
    if floor is not None:
        result["floor"] = {
            "arithmetic_ms": rounded(1e3 * floor.arithmetic),
            "memory_ms": rounded(1e3 * floor.memory),
            "dispatch_ms": rounded(1e3 * floor.dispatch),
            "gflop": rounded(floor.counts.flops / 1e9),
            "saved_mb": rounded(floor.counts.saved / 1e6),
            "operations": floor.counts.operations,
        }
    return result


def rounded(value: float) -> float:
    """Four digits."""
    return float(f"{value:.4g}")


def curve(axis: str, points: Sequence[tuple[int, Entry]]) -> dict[str, Any]:
    """How the cost of every contender grows: its median seconds and its bytes, value by value."""
    modes: dict[str, dict[str, list[Any]]] = {}
    for _, point in points:
        for row in point["contenders"]:
            mode = modes.setdefault(row["name"], {"seconds": [], "bytes": []})
            mode["seconds"].append(rounded(row["ms"][1] / 1e3) if "ms" in row else None)
            mode["bytes"].append(round(1e6 * row["peak_mb"]) if "peak_mb" in row else None)
    return {"axis": axis, "values": [value for value, _ in points], "modes": modes}


HEAD = f"{'':28}{'ms':>9}  {'(quartiles)':20}{'ratio':>6}  {'(quartiles)':18}{'MB':>7}  {'error':7}"


def table(entry: Entry) -> str:
    """A workload's lines of the table."""
    lines = [entry["workload"]]
    for row in entry["contenders"]:
        line = f"  {row['name']:26}"
        if "ms" in row:
            low, middle, high = row["ms"]
            line += f"{middle:9.4g}  {f'({low:.4g} to {high:.4g})':20}"
            if "ratio" in row:
                low, middle, high = row["ratio"]
                line += f"{middle:6.3g}  {f'({low:.3g} to {high:.3g})':18}"
            else:
                line += " " * 26
            line += f"{row['peak_mb']:7.1f}" if "peak_mb" in row else " " * 7
        if "error" in row:
            line += f"  {row['error']:7.0e}" + (" WRONG" if row["wrong"] else "")
        if "note" in row:
            line += f"  left out: {row['note']}"
        lines.append(line.rstrip())
    if "floor" in entry:
        floor = entry["floor"]
        lines.append(
            f"  floor: arithmetic {floor['arithmetic_ms']:.3g} ms ({floor['gflop']:.3g} GFLOP), "
            f"memory {floor['memory_ms']:.3g} ms ({floor['saved_mb']:.3g} MB saved), "
            f"operations one by one {floor['dispatch_ms']:.3g} ms"
        )
    return "\n".join(lines) + "\n"


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a record; what stood there before stands until it is whole."""
    write_text(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
