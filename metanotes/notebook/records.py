"""The records of long runs, `results/<name>.json`, as a chapter reads them.

What a record holds is written down in CONTRIBUTING.md, "Recorded runs". In the book's repository
records lie in `results/`, from a chapter in `notebooks/` in `../results`. An installed package has
a copy of them, so that a chapter runs in any folder.
"""

from __future__ import annotations

import json
import math
import os
import re
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metanotes.notebook.tables import HtmlTable, html_table

Entry = dict[str, Any]  # one of a row, a run, a curve or a published figure


def record(name: str, folder: str | os.PathLike[str] | None = None) -> Record:
    """Read the record of a long run.

    Args:
        name: as in `python -m runs NAME`.
        folder: where the records lie; default: `results/` in this folder or in one of the two above
            it, as from `notebooks/`, and after these the records that came with the package.

    Returns:
        The `Record`.

    Raises:
        FileNotFoundError: says where it was looked for, and what to do.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as empty:
    ...     record("sine", empty)
    Traceback (most recent call last):
    FileNotFoundError: there is no record 'sine': ...
    """
    return Record.of(name, record_data(name, folder))


def record_data(name: str, folder: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """What a file of `results/` holds, whatever its shape: a run, a benchmark, a measurement.

    Args:
        name: its path without `.json`, such as `"hypergradients/cost"`.
        folder: see `record`.

    Raises:
        FileNotFoundError: see `record`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "cost.json").write_text('{"seconds": [1, 2]}')
    ...     record_data("cost", folder)
    {'seconds': [1, 2]}
    """
    text = record_file(f"{name}.json", folder).read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


def record_file(name: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """Where a file of `results/` lies: a record, or the weights that a run kept.

    Args:
        name: its path in there, such as `"play/sine_maml.safetensors"`.
        folder: see `record`.

    Raises:
        FileNotFoundError: see `record`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "phi.safetensors").write_bytes(b"")
    ...     record_file("phi.safetensors", folder).name
    'phi.safetensors'
    """
    folders = _folders(folder)
    for place in folders:
        if (place / name).exists():
            return place / name
    looked = ", ".join(str(place.resolve()) for place in folders)
    run = name.removesuffix(".json")
    raise FileNotFoundError(
        f"there is no record {run!r}: looked for {name} in {looked}. One that was made since the "
        "package was installed lies in the book's repository: work in its notebooks/ folder, or "
        "give folder=, its results/ folder. "
        f"A long run's record is made there by: python -m runs {run}"
    )


def kept(
    name: str,
    key: str,
    make: Callable[[], Any],
    folder: str | os.PathLike[str] | None = None,
) -> Any:
    """What `make()` returned when it was first called, from a file of `results/`.

    For what a chapter works out but once, such as the second and third seed of a comparison. Remove
    the file after a change of what `make` does; the book's tests find out if a cell behind it has
    changed.

    Args:
        name: of the file; its path without `.json`, such as `"domains/adversarial"`.
        key: what is asked for, in words.
        make: works it out; called where the file does not have it, which is then kept there.
        folder: see `record`; where no folder holds the file, it is written to the first of them.

    Returns:
        What JSON makes of `make()`: numbers, texts, None, lists and dicts of them.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(kept("cost", "seed 1", lambda: [0.5, 2], folder))
    ...     print(kept("cost", "seed 1", lambda: 1 / 0, folder))
    [0.5, 2]
    [0.5, 2]
    """
    try:
        path = record_file(f"{name}.json", folder)
        results = record_data(name, folder)
    except FileNotFoundError:
        folders = _folders(folder)
        path = next((p for p in folders if p.is_dir()), folders[0]) / f"{name}.json"
        results = {}
    if key not in results:
        results[key] = make()
        text = json.dumps(results, indent=1, allow_nan=False) + "\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".tmp")
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    return json.loads(json.dumps(results[key]))


def record_names(pattern: str = "*", folder: str | os.PathLike[str] | None = None) -> list[str]:
    """The names of the records that are there, in alphabetical order.

    Args:
        pattern: of their paths, such as `"benchmarks/*"`.
        folder: see `record`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("sine", "omniglot"):
    ...         _ = Path(folder, f"{name}.json").write_text("{}")
    ...     record_names(folder=folder)
    ['omniglot', 'sine']
    """
    for place in _folders(folder):
        paths = sorted(place.glob(f"{pattern}.json"))
        if paths:
            return [path.relative_to(place).with_suffix("").as_posix() for path in paths]
    return []


def _folders(folder: str | os.PathLike[str] | None) -> list[Path]:
    if folder is not None:
        return [Path(folder)]
    here = Path(__file__).resolve()
    near = [Path(up) / "results" for up in (".", "..", "../..")]
    # setup.py puts records beside this file; an editable install reads the repository's.
    return [*near, here.parent / "results", here.parents[2] / "results"]


@dataclass(frozen=True)
class OverSeeds:
    """A score of several seeds; a difference of two is taken seed by seed.

    Args:
        values: by seed.

    >>> score = OverSeeds({0: 0.5, 1: 0.7, 2: 0.6})
    >>> f"{score.mean:.2f} ± {score.ci95:.2f}"
    '0.60 ± 0.25'
    >>> gain = score - OverSeeds({0: 0.4, 1: 0.5})
    >>> sorted(gain.values)
    [0, 1]
    """

    values: Mapping[int | None, float]

    def __sub__(self, other: OverSeeds) -> OverSeeds:
        common = [seed for seed in self.values if seed in other.values]
        return OverSeeds({seed: self.values[seed] - other.values[seed] for seed in common})

    @property
    def mean(self) -> float:
        """Over the seeds; NaN if there are none."""
        return statistics.fmean(self.values.values()) if self.values else math.nan

    @property
    def ci95(self) -> float:
        """Half of the 95 % interval of that mean by Student's t; NaN with fewer than two seeds."""
        n = len(self.values)
        if n < 2:
            return math.nan
        from scipy import stats

        t = float(stats.t.ppf(0.975, n - 1))
        return t * statistics.stdev(self.values.values()) / math.sqrt(n)


@dataclass(frozen=True)
class Record:
    """What is known of a long run: how it was made, its scores and its curves.

    Args:
        name: of the file.
        title: of the run.
        command: makes it again.
        config: its settings, in words.
        protocol: how it was judged, in a sentence.
        seeds: of its rows.
        published: figures from papers, each with `name`, `value` and `cite`.
        rows: its scores, each with `name`, `value`, `ci95` (over tasks), `unit`, `tasks`,
            `transductive`, `seed`, and sometimes `setting`, `steps` and `note`.
        runs: what was trained, each with `what`, `seed`, `iterations`, `seconds`, and mostly a
            `curve` of `iteration` and `value`.
        curves: others, each with `name`, `seed` and `value`, a number a step.
        curve_label: what the curves of `runs` show.
        machines: what rows were made on, and with which code, in a line each.

    >>> rows = [{"name": "MAML", "seed": s, "value": 0.9 + s / 100, "ci95": 0.01} for s in (0, 1)]
    >>> content = {"title": "T", "command": "C", "config": {}, "protocol": "P", "rows": rows}
    >>> run = Record.of("example", content)
    >>> run.cell(name="MAML"), run.over_seeds(name="MAML").mean
    ('90.0 91.0 ± 1.0', 0.905)
    """

    name: str
    title: str
    command: str
    config: dict[str, Any]
    protocol: str
    seeds: list[int]
    published: list[Entry]
    rows: list[Entry]
    runs: list[Entry]
    curves: list[Entry]
    curve_label: str
    machines: list[str]

    @classmethod
    def of(cls, name: str, data: Mapping[str, Any]) -> Record:
        """The record in what a file holds."""
        machines = [data["machine"]] if "machine" in data else []
        machines += [_origin_line(origin) for origin in data.get("origins", {}).values()]
        lists = {key: data.get(key, []) for key in ("seeds", "published", "rows", "runs", "curves")}
        words = {key: data[key] for key in ("title", "command", "config", "protocol")}
        label = data.get("curve_label", "validation score")
        return cls(name=name, curve_label=label, machines=machines, **words, **lists)

    @property
    def names(self) -> list[str]:
        """The names of the rows, each once, in their order."""
        return list(dict.fromkeys(row["name"] for row in self.rows))

    @property
    def settings(self) -> list[str]:
        """The settings of the rows, likewise; none where the rows have no `setting`."""
        return list(dict.fromkeys(row["setting"] for row in self.rows if "setting" in row))

    def rows_of(self, **fields: Any) -> list[Entry]:
        """The rows whose fields are as given: `rows_of(name="MAML", transductive=True)`."""
        return [row for row in self.rows if _agrees(row, fields)]

    def runs_of(self, **fields: Any) -> list[Entry]:
        """The trainings, likewise: `runs_of(what="MAML")`."""
        return [run for run in self.runs if _agrees(run, fields)]

    def curves_of(self, **fields: Any) -> list[Entry]:
        """The curves, likewise."""
        return [curve for curve in self.curves if _agrees(curve, fields)]

    def over_seeds(self, **fields: Any) -> OverSeeds:
        """The values of the rows whose fields are as given, by their seeds.

        Raises:
            ValueError: two of the rows have the same seed, so the fields say too little.
        """
        rows = self.rows_of(**fields)
        values = {row["seed"]: row["value"] for row in rows}
        if len(values) < len(rows):
            raise ValueError(f"{fields} is more than one row a seed in the record {self.name!r}")
        return OverSeeds(values)

    def cell(self, between: str = " ", **fields: Any) -> str:
        """The rows' values in percent, seed by seed, ± the widest of their intervals; or ""."""
        rows = sorted(self.rows_of(**fields), key=lambda row: row.get("seed") or 0)
        if not rows:
            return ""
        means = between.join(f"{100 * row['value']:.1f}" for row in rows)
        return f"{means} ± {100 * max(row['ci95'] for row in rows):.1f}"

    def grid(self, **fields: Any) -> tuple[list[str], list[list[str]]]:
        """The head and the lines of a table of the rows whose fields are as given.

        Accuracies in several settings: a line a name, a column a setting, percent seed by seed.
        What was made before rows had a digest of their settings, among others that have one, is
        marked by a °. Anything else: a line a score and a column a seed, and the notes of the seeds
        without what they have in parentheses; columns that say nothing are left out.
        """
        rows = self.rows_of(**fields)
        if not rows or any("setting" not in row or row["unit"] != "accuracy" for row in rows):
            return _by_seeds(rows)
        columns = list(dict.fromkeys(row["setting"] for row in rows))
        digests = any("settings" in row for row in rows)

        def cell(name: str, setting: str) -> str:
            text = self.cell(", ", **fields, name=name, setting=setting)
            of = self.rows_of(**fields, name=name, setting=setting)
            older = digests and of and not any("settings" in row for row in of)
            return f"{text}\N{NO-BREAK SPACE}°" if older else text

        names = dict.fromkeys(row["name"] for row in rows)
        return ["learner", *columns], [[n, *(cell(n, c) for c in columns)] for n in names]

    def table(self, **fields: Any) -> HtmlTable:
        """The `grid` as a table that a notebook shows."""
        return html_table(*self.grid(**fields))


def _agrees(row: Entry, fields: Mapping[str, Any]) -> bool:
    return all(row.get(key) == value for key, value in fields.items())


def _by_seeds(rows: list[Entry]) -> tuple[list[str], list[list[str]]]:
    seeds = sorted({row["seed"] for row in rows if row.get("seed") is not None})
    without = any(row.get("seed") is None for row in rows)
    columns: list[int | None] = [*seeds, *([None] * without)]
    of_line: dict[tuple[Any, ...], dict[int | None, Entry]] = {}
    for row in rows:
        name = f"{row['setting']}: {row['name']}" if "setting" in row else row["name"]
        line = (name, row["tasks"], row.get("transductive"))
        of_line.setdefault(line, {})[row.get("seed")] = row
    transduction = any(row.get("transductive") is not None for row in rows)
    notes = any(row.get("note") for row in rows)
    head = ["method", *(f"seed {seed}" for seed in seeds)]
    head += ["without a seed" if seeds else "result"] * without + ["judged on"]
    head += ["transductive"] * transduction + ["note"] * notes
    lines = []
    for (name, tasks, transductive), by_seed in of_line.items():
        here = [by_seed[seed] for seed in columns if seed in by_seed]
        cells = [name, *(score_text(by_seed[s]) if s in by_seed else "" for s in columns)]
        cells.append(f"{tasks:,}".replace(",", " "))
        cells += [{True: "yes", False: "no", None: ""}[transductive]] * transduction
        said = [re.sub(r" \([^)]*\)", "", row.get("note") or "") for row in here]
        lines.append(cells + ["; ".join(said[:1] if len(set(said)) == 1 else said)] * notes)
    return head, lines


def _origin_line(origin: Mapping[str, Any]) -> str:
    commit = origin["commit"][:12] + (", changed since" if origin["dirty"] else "")
    return (
        f"{origin['processor']}, {origin['threads']} of {origin['cores']} cores used, torch "
        f"{origin['torch']}, Python {origin['python']}; commit {commit}; `{origin['command']}`"
    )


def score_text(row: Mapping[str, Any]) -> str:
    """A row's mean with half of its 95 % interval, in the custom of its unit.

    >>> score_text({"value": 0.9625, "ci95": 0.0036, "unit": "accuracy"})
    '96.2 ± 0.4 %'
    >>> score_text({"value": 0.2481, "ci95": 0.0048, "unit": "loss"})
    '0.248 ± 0.005'
    """
    if row["unit"] == "accuracy":
        return f"{100 * row['value']:.1f} ± {100 * row['ci95']:.1f} %"
    digits = 3 if row["unit"] == "loss" and abs(row["value"]) < 10 else 2
    return f"{row['value']:.{digits}f} ± {row['ci95']:.{digits}f}"
