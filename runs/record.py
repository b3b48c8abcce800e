"""How a record of `results/` is kept while runs add to it: several at once lose nothing.

Every row says by a digest which settings made it, and by a key of the record's `origins` which code
on which machine. The shape is written down in CONTRIBUTING.md, "Recorded runs".
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch

from metanotes._ground.files import write_text
from metanotes._ground.machine import cores, processor, versions
from metanotes.notebook.records import record_data

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
STALE = "to be made again"  # in the place of a digest, which it never equals

Content = dict[str, Any]


def digest(settings: Mapping[str, Any]) -> str:
    """Twelve characters that differ where plain settings differ, whatever their order.

    >>> digest({"lr": 0.1, "steps": 5}) == digest({"steps": 5, "lr": 0.1})
    True
    >>> digest({"lr": 0.1}) == digest({"lr": 0.2})
    False
    """
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def origin(command: str) -> dict[str, Any]:
    """What makes rows now: the command, the code, the machine.

    Args:
        command: as it was given.

    Returns:
        `command`; `commit`, "unknown" outside git, and whether the tree was `dirty`: other files
        than records had changed, or None; `processor`, its `cores`, the `threads` that torch uses;
        the versions of `torch` and `python`.
    """
    commit, dirty = code_version(ROOT)
    machine = {"processor": processor(), "cores": cores(), "threads": torch.get_num_threads()}
    return {"command": command, "commit": commit, "dirty": dirty, **machine, **versions()}


@cache  # as the code was when it was imported
def code_version(folder: Path) -> tuple[str, bool | None]:
    """The commit that a folder of a git repository is at, and whether its files differ from it."""

    def git(*arguments: str) -> str:
        line = ["git", *arguments]
        return subprocess.run(
            line, cwd=folder, check=True, capture_output=True, text=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ".", ":(exclude)results")
        return git("rev-parse", "HEAD"), bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return "unknown", None


class Recorder:
    """Keeps one record.

    Args:
        name: of the record.
        about: gives its title, config, protocol, published figures and label of curves; asked once,
            when the record is first written to.
        command: as it was given.
        seeds: those that `python -m runs NAME` has without options.
        folder: where records lie.
    """

    def __init__(
        self,
        name: str,
        about: Callable[[], Mapping[str, Any]],
        command: str,
        seeds: Sequence[int],
        folder: Path = RESULTS,
    ) -> None:
        self.name, self.folder, self.path = name, folder, folder / f"{name}.json"
        self.seeds, self._about = list(seeds), about
        self.origin = origin(command)

    @cached_property
    def about(self) -> Mapping[str, Any]:
        """The words of the record."""
        return self._about()

    def read(self) -> Content:
        """What the file holds now; no rows where there is none."""
        if self.path.exists():
            return record_data(self.name, self.folder)
        return {"origins": {}, "rows": [], "runs": [], "curves": []}

    def put(self, old: Callable[[Content], bool], **new: Sequence[Content]) -> None:
        """Put entries in the place of others; a reader of the file sees all of it, or none.

        Args:
            old: whether an entry goes.
            **new: `rows`, `runs` or `curves`, without their origin, which is added. They stand
                where the first of the old ones stood, or else last.
        """

        def change(content: Content) -> None:
            key = digest(self.origin)[:8]
            content["origins"][key] = self.origin
            for name, entries in new.items():
                kept = [entry for entry in content[name] if not old(entry)]
                gone = (n for n, entry in enumerate(content[name]) if old(entry))
                place = next(gone, len(kept))
                kept[place:place] = [{**entry, "origin": key} for entry in entries]
                content[name] = kept

        self.change(change)

    def mark_stale(self, chosen: Callable[[Content], bool]) -> None:
        """Have rows made again: what stands there is shown until then, and agrees with nothing."""

        def change(content: Content) -> None:
            for row in content["rows"]:
                if chosen(row):
                    row["settings"] = STALE

        self.change(change)

    def change(self, change: Callable[[Content], None]) -> None:
        """Read, change and write the record while no other process does."""
        with self.locked():
            content = self.read()
            change(content)
            write_text(self.path, text_of(self.completed(content)))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Wait for a lock beside the record; it is given back by the end of a process too."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / f".{self.name}.lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def completed(self, content: Content) -> Content:
        """The record's keys in their order, with what follows from its rows."""
        lists = {key: content[key] for key in ("rows", "runs", "curves")}
        made = [entry for entries in lists.values() for entry in entries]
        seeds = sorted({row["seed"] for row in lists["rows"] if row["seed"] is not None})
        command = f"python -m runs {self.name}"
        if seeds != sorted(self.seeds) and seeds:
            command += " --seeds " + " ".join(map(str, seeds))
        known = {entry["origin"] for entry in made if "origin" in entry}
        older = any("origin" not in entry for entry in made) and "machine" in content
        return {
            "title": self.about["title"],
            "command": command,
            "config": self.about["config"],
            "protocol": self.about["protocol"],
            "curve_label": self.about.get("curve_label", "validation score"),
            "seeds": seeds,
            "published": self.about.get("published", []),
            **({"machine": content["machine"]} if older else {}),  # before there were origins
            "origins": {k: v for k, v in content["origins"].items() if k in known},
            **lists,
        }


def text_of(content: Content) -> str:
    """A record as JSON that a person can read: one field a line, lists of numbers in one."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    numbers = re.compile(r"\[\n\s+(-?\d[^\[\]{}\"]*?)\n\s+\]")
    return numbers.sub(lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text) + "\n"
