"""What a long run is made of: jobs, each of which trains something and judges it.

A training is saved as it goes and continued by the same command. It keeps its checkpoint under the
digest of its settings, so that no other is taken for it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from metanotes._ground.files import write_text
from metanotes.data import cache_folder
from metanotes.evaluation import Score
from metanotes.training import History
from runs.record import Content, Recorder, digest

LEGS = 20  # parts of a training whose minutes are counted: it may stop after each
Standing = Literal["absent", "done", "other", "unknown"]


@dataclass(frozen=True)
class Job:
    """What is trained and judged, or skipped, as one.

    Args:
        learner: its name, which `--learners` selects by.
        seed: of the training; None for what does not depend on one.
        rows: a regular expression, from the start of the names of its rows and curves.
        work: does the job in a `Session`.
        training: all that the training depends on, as plain values: learner, data, iterations, ...
        judging: what the rows depend on beyond that.
        setting: its name, which `--settings` selects by and which its rows carry.
        trained: what is trained, by the names that `Session.train` is given.
    """

    learner: str
    seed: int | None
    rows: str
    work: Callable[[Session], None]
    training: Mapping[str, Any] = field(default_factory=dict)
    judging: Mapping[str, Any] = field(default_factory=dict)
    setting: str | None = None
    trained: Sequence[str] = ()

    @property
    def digest(self) -> str:
        """Of all its settings: what its rows carry."""
        return digest({"training": self.training, "judging": self.judging})

    def owns(self, entry: Content) -> bool:
        """Whether a row or a curve of the record is of this job, whatever its settings."""
        same = (entry["seed"], entry.get("setting")) == (self.seed, self.setting)
        return same and re.match(self.rows, entry["name"]) is not None

    def state(self, content: Content) -> Standing:
        """How it stands in a record."""
        digests = {row.get("settings") for row in content["rows"] if self.owns(row)}
        if not digests:
            return "absent"
        if None in digests:
            return "unknown"
        return "done" if digests == {self.digest} else "other"


@dataclass(frozen=True)
class LongRun:
    """A run as `python -m runs` offers it.

    Args:
        name: of the run and of its record.
        line: what it is, for `--help`.
        about: gives the words of the record: title, config, protocol, published, curve_label.
        jobs: makes its jobs, from the seeds.
        seeds: those it has without options.
    """

    name: str
    line: str
    about: Callable[[], Mapping[str, Any]]
    jobs: Callable[[Sequence[int]], list[Job]]
    seeds: Sequence[int] = (0, 1, 2)


class OutOfMinutes(Exception):
    """The minutes are over; all that was done is saved."""


class Clock:
    """Says when to stop.

    Args:
        minutes: from now on; None for no limit.
    """

    def __init__(self, minutes: float | None) -> None:
        self.end = None if minutes is None else time.monotonic() + 60 * minutes

    def check(self) -> None:
        """Go on, or raise `OutOfMinutes`."""
        if self.end is not None and time.monotonic() > self.end:
            raise OutOfMinutes


class Progress:
    """How far a training is, in a file beside its checkpoint.

    Args:
        path: of the checkpoint. Where there is none, the training starts anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.with_suffix(".json")
        kept = path.exists() and self.path.exists()
        saved = json.loads(self.path.read_text(encoding="utf-8")) if kept else {}
        self.until: int = saved.get("until", 0)
        self.seconds: float = saved.get("seconds", 0.0)
        self.curve: list[tuple[int, float]] = saved.get("curve", [])

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the seconds of a leg, also of one that is interrupted, and save."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - start
            saved = {"until": self.until, "seconds": self.seconds, "curve": self.curve}
            write_text(self.path, json.dumps(saved))


class Session:
    """A job being done: trains, and collects rows and curves.

    Args:
        job: the job.
        recorder: of its record.
        clock: says when to stop.
    """

    def __init__(self, job: Job, recorder: Recorder, clock: Clock) -> None:
        self.job, self.recorder, self.clock = job, recorder, clock
        self.rows: list[Content] = []
        self.curves: list[Content] = []
        self.note: str | None = None  # to be carried by all rows from now on

    def train(
        self,
        what: str,
        iterations: int,
        train_until: Callable[[int, Path], History],
        *,
        tasks: int | None = None,
        images: int | None = None,
        judge: Callable[[], float] | None = None,
        legs: int | None = None,
    ) -> None:
        """Train, or go on, in legs; note the time and the learning curve in the record.

        Args:
            what: names the training; jobs may share one, and then it is done once.
            iterations: of the whole training.
            train_until: trains up to an iteration with a checkpoint, as `meta_train` does, of which
                it is the only call.
            tasks: in a batch, for the record.
            images: in a batch, of all its tasks; the record says how many the training saw.
            judge: is asked for a point of the curve after each leg; default: the curve is that of
                the validations.
            legs: into how many parts; default: one, or `LEGS` of them if the minutes are counted.
        """
        legs = legs or (1 if self.clock.end is None else LEGS)
        marks = sorted({max(1, leg * iterations // legs) for leg in range(1, legs + 1)})
        path = checkpoints(self.recorder.name, what) / (
            f"{self.seed}-{digest(self.job.training)}.pt"
        )
        progress, history = Progress(path), None
        for until in [mark for mark in marks if mark > progress.until]:
            with progress.timed():
                history = train_until(until, path)
                if judge is not None:
                    progress.curve.append((until, judge()))
                progress.until = until
            self.clock.check()
        if history is None:
            history = train_until(iterations, path)  # it is finished: the learner gets its phi
        curve = history.validation if judge is None else progress.curve
        entry: Content = {"what": what, "seed": self.seed, "iterations": iterations}
        entry |= {} if tasks is None else {"tasks in a batch": tasks}
        entry |= {} if images is None else {"images": images * iterations}
        entry["seconds"] = round(progress.seconds)
        if curve:
            at, values = zip(*curve, strict=True)
            entry["curve"] = {"iteration": at, "value": [round(v, 4) for v in values]}
        entry["settings"] = digest(self.job.training)
        self.recorder.put(
            lambda other: (other["what"], other["seed"]) == (what, self.seed), runs=[entry]
        )

    def score(self, name: str, score: Score, **more: Any) -> None:
        """A row.

        Args:
            name: begins as the job says.
            score: what is recorded.
            **more: other fields, such as `steps`.
        """
        self.rows.append(
            {
                "name": name,
                **self.setting,
                "value": round(score.mean, 4),
                "ci95": round(score.ci95, 4),
                "unit": score.metric,
                "tasks": len(score.values),
                "transductive": score.transductive if score.metric == "accuracy" else None,
                "seed": self.job.seed,
                **({} if self.note is None else {"note": self.note}),
                **more,
                "settings": self.job.digest,
            }
        )
        where = [name, *self.setting.values()]
        where += [] if self.job.seed is None else [f"seed {self.job.seed}"]
        print(f"{', '.join(where)}: {score}", flush=True)

    def curve(self, name: str, values: Iterable[float]) -> None:
        """A curve of the record, beside those of its trainings: a value a step."""
        short = [float(f"{value:.4g}") for value in values]
        self.curves.append({"name": name, **self.setting, "seed": self.job.seed, "value": short})

    @property
    def seed(self) -> int:
        """Of the job's training."""
        if self.job.seed is None:
            raise ValueError(f"{self.job.learner} has no seed: there is nothing to train")
        return self.job.seed

    @property
    def setting(self) -> dict[str, str]:
        """The field of rows and curves that says in which setting."""
        return {} if self.job.setting is None else {"setting": self.job.setting}


def checkpoints(run: str, what: str) -> Path:
    """The folder of a training's checkpoints, of all its seeds and settings."""
    return cache_folder() / "runs" / run / re.sub(r"\W+", "-", what.lower()).strip("-")
