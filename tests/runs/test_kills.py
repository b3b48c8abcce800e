"""A long run that is killed, or shared by two processes: no row is lost or doubled."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from metanotes import evaluate
from metanotes._ground import files
from metanotes.data import sinusoid
from metanotes.training import History
from runs import __main__ as command
from runs.carry_out import own_share
from runs.jobs import Job, LongRun, Session
from tests.ranks import CONTEXT, SECONDS
from tests.sines import Wrapped, sine_learner, train

NAMES = ("narrow", "wide")


def jobs(seeds: Sequence[int]) -> list[Job]:
    return [
        Job(name, seed, f"{name}$", partial(work, name), {"name": name}, trained=[name])
        for name in NAMES
        for seed in seeds
    ]


def work(name: str, session: Session) -> None:
    learner = sine_learner(hidden=4 if name == "narrow" else 8)

    def train_until(until: int, path: Path) -> History:
        sampler = Wrapped(lambda drawn: time.sleep(0.004))
        return train(learner, until, sampler=sampler, checkpoint=path, checkpoint_every=4)

    def judge() -> float:
        return evaluate(learner, sinusoid(seed=1), tasks=4).mean

    session.train(name, 24, train_until, judge=judge, legs=3)
    session.score(name, evaluate(learner, sinusoid(seed=2), tasks=4))


def about() -> dict[str, Any]:
    return {"title": "T", "config": {}, "protocol": "P."}


RUN = LongRun("small", "trains a little", about, jobs, seeds=(0, 1))


def called(folder: Path, environment: dict[str, str]) -> None:
    """The command, in a process of its own."""
    os.environ |= {"METANOTES_CACHE": str(folder / "cache"), **environment}
    command.RUNS["small"] = RUN
    raise SystemExit(command.main(["small"], folder / "results"))


def start(folder: Path, **environment: str) -> Any:
    process = CONTEXT.Process(target=called, args=(folder, environment))
    process.start()
    return process


def contents(folder: Path) -> tuple[list[Any], list[Any]]:
    """Rows and trainings, without what was done when."""
    content = json.loads((folder / "results" / "small.json").read_text())
    without = [
        [{**entry, "origin": None, "seconds": None} for entry in content[name]]
        for name in ("rows", "runs")
    ]
    return without[0], without[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], list[Any]]:
    folder = tmp_path_factory.mktemp("whole")
    process = start(folder)
    process.join(SECONDS)
    assert process.exitcode == 0
    rows, trainings = contents(folder)
    assert [(row["name"], row["seed"]) for row in rows] == [(n, s) for n in NAMES for s in (0, 1)]
    assert [len(training["curve"]["value"]) for training in trainings] == [3] * 4
    return rows, trainings


@pytest.mark.parametrize("kills", [4, pytest.param(10, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_again_and_again_has_the_record_of_one_that_was_not(
    tmp_path: Path, whole: tuple[list[Any], list[Any]], kills: int
) -> None:
    chance, killed = random.Random(kills), 0
    for _ in range(kills):
        process = start(tmp_path)
        process.join(chance.uniform(0.1, 0.5))
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.join(SECONDS)
    assert killed >= 2
    process = start(tmp_path)
    process.join(SECONDS)
    assert process.exitcode == 0
    assert contents(tmp_path) == whole


def test_processes_of_torchrun_share_the_jobs(
    tmp_path: Path, whole: tuple[list[Any], list[Any]]
) -> None:
    of_torchrun = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2"}
    processes = [start(tmp_path, RANK=str(rank), **of_torchrun) for rank in (0, 1)]
    for process in processes:
        process.join(SECONDS)
    assert [process.exitcode for process in processes] == [0, 0]
    for ours, theirs in zip(contents(tmp_path), whole, strict=True):
        assert sorted(map(str, ours)) == sorted(map(str, theirs))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("run", command.RUNS.values(), ids=lambda run: run.name)
def test_every_job_has_one_process_and_every_training_too(run: LongRun, size: int) -> None:
    made = run.jobs(run.seeds)
    shares = [own_share(made, rank, size) for rank in range(size)]
    assert sum(map(len, shares)) == len(made)
    assert all(job in made for share in shares for job in share)
    trainings = [
        {(name, job.seed, str(job.training)) for job in share for name in job.trained}
        for share in shares
    ]
    assert len(set().union(*trainings)) == sum(map(len, trainings))


@pytest.mark.parametrize("place", ["results", "cache"])
def test_a_full_disk_is_said_and_nothing_is_lost(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    whole: tuple[list[Any], list[Any]],
    place: str,
) -> None:
    monkeypatch.setenv("METANOTES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(command.RUNS, "small", RUN)
    written: list[str] = []
    replace = os.replace

    def full(old: str, new: str) -> None:
        written.append(str(new))
        if place in Path(new).relative_to(tmp_path).parts and len(written) > 15:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", full)
        assert command.main(["small"], tmp_path / "results") == 1
    told = capsys.readouterr().err
    assert "No space left on device" in told
    assert command.main(["small"], tmp_path / "results") == 0
    assert contents(tmp_path) == whole
