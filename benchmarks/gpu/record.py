"""The record of a run: what each part has given so far, on the disk at any time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from metanotes._ground.files import write_text

RUNNING, DONE, FAILED, TOO_LONG, LEFT_OUT = (
    "running",
    "done",
    "failed",
    "out of time",
    "left out",
)


class Record:
    """A file of JSON that several processes write, one after the other.

    Args:
        path: the file.

    A part is `{"name", "about", "status", "seconds", "rows": [...]}`, with an "error" where it
    failed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Any]:
        """All that is there."""
        record: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        return record

    def write(self, record: dict[str, Any]) -> None:
        """Replace the file; what stood there before stands until it is whole."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")

    def begin(self, part: str, about: str) -> None:
        """A new part, without rows."""
        record = self.read()
        new = {"name": part, "about": about, "status": RUNNING, "seconds": 0.0, "rows": []}
        record["parts"] = [p for p in record["parts"] if p["name"] != part] + [new]
        self.write(record)

    def add(self, part: str, row: dict[str, Any]) -> None:
        """A row of a part."""
        record = self.read()
        self._of(record, part)["rows"].append(row)
        self.write(record)

    def end(self, part: str, status: str, seconds: float, error: str = "") -> None:
        """How a part ended; a failure that has been told stays."""
        record = self.read()
        mine = self._of(record, part)
        mine |= {"status": status, "seconds": round(seconds, 1)}
        if error:
            mine.setdefault("error", error)
        self.write(record)

    def set(self, **entries: Any) -> None:
        """Entries of the record itself."""
        self.write({**self.read(), **entries})

    @staticmethod
    def _of(record: dict[str, Any], part: str) -> dict[str, Any]:
        mine: dict[str, Any] = next(p for p in record["parts"] if p["name"] == part)
        return mine
