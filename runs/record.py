"""A record in `results/`, and how long it took."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

from metanotes.data import cache_folder
from metanotes.evaluation import Score

RESULTS = Path("results")


class Record:
    """A record in `results/`, and how to add to it without ever leaving half of one."""

    def __init__(self, name: str, **about: Any) -> None:
        self.path = RESULTS / f"{name}.json"
        self.runs = cache_folder() / "runs" / name
        threads = torch.get_num_threads()
        self.content: dict[str, Any] = {
            **about,
            "command": f"python -m runs {name}",
            "machine": f"{os.cpu_count()} CPU cores, {threads} of them used, "
            f"torch {torch.__version__.split('+')[0]}, Python {platform.python_version()}",
            "wall_seconds": [],
            "rows": [],
        }

    def add(self, name: str, score: Score, seed: int | None, **more: Any) -> None:
        """A row: one score of one learner and seed."""
        self.content["rows"].append(
            {
                "name": name,
                "value": round(score.mean, 4),
                "ci95": round(score.ci95, 4),
                "unit": score.metric,
                "tasks": len(score.values),
                "transductive": score.transductive if score.metric == "accuracy" else None,
                "seed": seed,
                **more,
            }
        )
        print(f"{name}, seed {seed}: {score}", flush=True)

    def reload(self) -> None:
        """Take over what the file holds of former runs, or of one that goes on beside this one."""
        if self.path.exists():
            old = json.loads(self.path.read_text(encoding="utf-8"))
            self.content |= {key: old[key] for key in ("rows", "runs", "seeds", "wall_seconds")}

    def write(self) -> None:
        """Write the record to a temporary name beside its own, then rename it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.content, indent=1, ensure_ascii=False) + "\n")
        os.replace(temporary, self.path)


class Stopwatch:
    """Seconds that a run has taken over all its starts, kept in a file beside its checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path, self.start = path, time.monotonic()
        self.before = float(path.read_text()) if path.exists() else 0.0

    def seconds(self) -> float:
        return self.before + time.monotonic() - self.start

    def note(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(str(self.seconds()))
