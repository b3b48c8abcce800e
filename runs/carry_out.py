"""How any long run is carried out.

A job whose rows stand in the record with the same settings is done; one whose settings differ is
done again; rows that were made before settings were kept are left alone, unless all is to be fresh.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from runs.jobs import Clock, Job, LongRun, OutOfMinutes, Session, checkpoints
from runs.record import RESULTS, Content, Recorder, digest


def carry_out(
    run: LongRun,
    jobs: Sequence[Job],
    command: str,
    *,
    fresh: bool = False,
    minutes: float | None = None,
    folder: Path = RESULTS,
) -> bool:
    """Do what is left of some jobs of a run.

    Args:
        run: the run.
        jobs: of it, see `chosen`.
        command: as it was given, for the record.
        fresh: forget what was done.
        minutes: stop when so many are over, at the next point where nothing is lost.
        folder: of records.

    Returns:
        Whether all of it is done.
    """
    clock = Clock(minutes)
    recorder = Recorder(run.name, run.about, command, run.seeds, folder)
    if fresh:
        forget(jobs, recorder)
    print(report(run, jobs, recorder.read()), flush=True)
    started = False
    try:
        for job in jobs:
            if job.state(recorder.read()) not in ("absent", "other"):
                continue
            if started:
                clock.check()
            started = True
            session = Session(job, recorder, clock)
            job.work(session)
            recorder.put(job.owns, rows=session.rows, curves=session.curves)
    except OutOfMinutes:
        return False
    return True


def chosen(run: LongRun, seeds: Sequence[int] | None, learners: str, settings: str) -> list[Job]:
    """The jobs of a run that are selected.

    Args:
        run: the run.
        seeds: of training; default: the run's own.
        learners: a regular expression; only these.
        settings: likewise.

    Raises:
        ValueError: the expressions select nothing.
    """
    jobs = run.jobs(list(dict.fromkeys(seeds or run.seeds)))
    names = list(dict.fromkeys(job.learner for job in jobs))
    places = list(dict.fromkeys(job.setting for job in jobs if job.setting is not None))
    if settings and not places:
        raise ValueError(f"--settings {settings!r}: {run.name} has no settings to choose from")
    for option, pattern, options in (("learners", learners, names), ("settings", settings, places)):
        if pattern and not any(re.search(pattern, name) for name in options):
            raise ValueError(f"--{option} {pattern!r} selects none of: {'; '.join(options)}")
    return [
        job
        for job in jobs
        if re.search(learners, job.learner) and re.search(settings, job.setting or "")
    ]


def own_share(jobs: Sequence[Job], rank: int, size: int) -> list[Job]:
    """The jobs of one of several processes, which share no training.

    Args:
        jobs: all that there is to do.
        rank: of the process, from 0.
        size: how many processes there are.
    """
    trainings = {_training(job): None for job in jobs}
    own = set(list(trainings)[rank::size])
    return [job for job in jobs if _training(job) in own]


def _training(job: Job) -> tuple[str | None, ...]:
    """What jobs that may share a training have in common."""
    of_its_own = () if job.trained else (job.learner, job.setting)
    return (str(job.seed), digest(job.training), *of_its_own)


def forget(jobs: Sequence[Job], recorder: Recorder) -> None:
    """Have jobs done again: their rows are stale, and their checkpoints are gone."""
    if any(job.owns(row) for row in recorder.read()["rows"] for job in jobs):
        recorder.mark_stale(lambda row: any(job.owns(row) for job in jobs))
    for job in jobs:
        for what in job.trained:
            for file in checkpoints(recorder.name, what).glob(f"{job.seed}-*"):
                file.unlink()


def report(run: LongRun, jobs: Sequence[Job], content: Content) -> str:
    """What there is to do, in words."""
    standings = [job.state(content) for job in jobs]
    lines = [f"{run.name}: {len(jobs)} jobs, {standings.count('done')} of them done before"]
    if unknown := standings.count("unknown"):
        lines.append(
            f"{unknown} have rows of unknown settings, made before settings were kept: they are "
            "left alone; --fresh makes them again"
        )
    if other := standings.count("other"):
        lines.append(f"{other} have rows of other settings, and are done again")
    return "\n".join(lines)
