"""The command of the long runs, on a run of a few numbers: what it skips, redoes and continues."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from metanotes._ground.files import write_text
from metanotes.evaluation import Score
from metanotes.training import History
from runs import __main__ as command
from runs import jobs, record
from runs.jobs import Job, LongRun, Session

ITERATIONS = 40


@dataclass
class Counting:
    """A run that counts its iterations in its checkpoint, and is judged by how many they were.

    Args:
        lr: the only hyper-parameter.
        iterations: those that were trained, in their order.
        interrupt_at: the iteration after which Ctrl+C is pressed.
    """

    lr: float = 0.1
    iterations: list[int] = field(default_factory=list)
    interrupt_at: int | None = None

    def run(self) -> LongRun:
        def about() -> dict[str, Any]:
            return {"title": "T", "config": {"lr": self.lr}, "protocol": "P."}

        return LongRun("counting", "counts its iterations", about, self.jobs, seeds=(0, 1))

    def jobs(self, seeds: Sequence[int]) -> list[Job]:
        fixed = Job("fixed", None, "fixed$", self.judge, judging={"value": 1})
        training = {"lr": self.lr, "iterations": ITERATIONS}
        return [
            fixed,
            *(
                Job(name, seed, f"{name}$", partial(self.work, name), training, trained=[name])
                for name in ("slow", "slower")
                for seed in seeds
            ),
        ]

    def judge(self, session: Session) -> None:
        session.score("fixed", Score(torch.tensor([0.5, 0.5]), "accuracy", True))

    def work(self, name: str, session: Session) -> None:
        def train_until(until: int, path: Path) -> History:
            done = int(path.read_text()) if path.exists() else 0
            end = self.interrupt_at or until
            self.iterations += range(done, end)
            write_text(path, str(end))
            if self.interrupt_at:
                raise KeyboardInterrupt
            history.losses, history.validation = [0.0] * until, [(until, self.lr)]
            return history

        history = History()
        session.train(name, ITERATIONS, train_until, tasks=3)
        values = torch.tensor([len(history.losses) * self.lr, session.seed + 0.0])
        session.score(name, Score(values, "loss", False), steps=5)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counting:
    monkeypatch.setenv("METANOTES_CACHE", str(tmp_path / "cache"))
    made = Counting()
    monkeypatch.setitem(command.RUNS, "counting", made.run())
    return made


@pytest.fixture
def call(tmp_path: Path, counting: Counting) -> Callable[..., dict[str, Any]]:
    """Call the command and return the record."""

    def run(*options: str, name: str = "counting") -> dict[str, Any]:
        assert command.main([name, *options], tmp_path / "results") == 0
        content: dict[str, Any] = json.loads((tmp_path / "results" / f"{name}.json").read_text())
        return content

    return run


def names(content: dict[str, Any]) -> list[tuple[str, int | None]]:
    return [(row["name"], row["seed"]) for row in content["rows"]]


def scores(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows without what they were made on."""
    return [{**row, "origin": None} for row in content["rows"]]


def test_help_names_every_run_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--help"])
    text = capsys.readouterr().out
    for name in (
        "sine",
        "few_shot_omniglot",
        "few_shot_mini_imagenet",
        "learned_optimizer",
        "learned_optimizer_quadratics",
        "mnist_m",
        "data_policy",
        "augmentation",
        "distillation",
        "dataset_distillation",
        "masked_words",
        "translation",
    ):
        assert re.search(rf"^  {name} +\w.{{10,}}$", text, re.M), name
    for option in ("--seeds", "--learners", "--settings", "--fresh", "--minutes", "--threads"):
        assert option in text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--learners", "quick"], "--learners 'quick' selects none of: fixed; slow; slower"),
        (["--learners", "("], "argument --learners"),
        (["--settings", "5-way"], "counting has no settings to choose from"),
        (["--seeds", "-1"], "seed=-1"),
        (["--minutes", "0"], "minutes=0.0"),
        (["--threads", "0"], "threads=0"),
    ],
)
def test_an_option_that_says_nothing_is_refused_before_any_work(
    counting: Counting, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    with pytest.raises(SystemExit):
        command.main(["counting", *options])
    assert says in capsys.readouterr().err
    assert counting.iterations == []


def test_the_record_says_how_and_on_what_it_was_made(call: Callable[..., dict[str, Any]]) -> None:
    content = call("--learners", "^slow$", "--seeds", "7")
    assert content["command"] == "python -m runs counting --seeds 7"
    assert content["seeds"] == [7]
    (origin,) = content["origins"].values()
    assert origin["command"] == "python -m runs counting --learners '^slow$' --seeds 7"
    assert origin["commit"] == "unknown" or re.fullmatch("[0-9a-f]{40}", origin["commit"])
    assert {"processor", "cores", "threads", "torch", "python", "dirty"} <= origin.keys()
    (row,), (trained,) = content["rows"], content["runs"]
    assert row["origin"] == trained["origin"] == next(iter(content["origins"]))
    assert (row["value"], row["unit"], row["tasks"], row["steps"]) == (5.5, "loss", 2, 5)
    assert trained["curve"] == {"iteration": [ITERATIONS], "value": [0.1]}
    assert trained["tasks in a batch"] == 3
    assert call()["command"] == "python -m runs counting --seeds 0 1 7"


def test_what_is_done_with_the_same_settings_is_left_alone(
    call: Callable[..., dict[str, Any]], counting: Counting, capsys: pytest.CaptureFixture[str]
) -> None:
    first = call("--seeds", "0")
    assert names(first) == [("fixed", None), ("slow", 0), ("slower", 0)]
    counting.iterations.clear()
    assert "3 jobs, 0 of them done before" in capsys.readouterr().out
    assert call("--seeds", "0") == first
    assert counting.iterations == []
    assert "3 jobs, 3 of them done before" in capsys.readouterr().out
    both = call()
    assert [row for row in both["rows"] if row["seed"] != 1] == first["rows"]


def test_a_row_of_other_settings_is_made_again_in_its_place(
    call: Callable[..., dict[str, Any]], counting: Counting, capsys: pytest.CaptureFixture[str]
) -> None:
    first = call()
    counting.iterations.clear()
    counting.lr = 0.2
    again = call()
    assert "4 have rows of other settings" in capsys.readouterr().out
    assert names(again) == names(first)
    assert len(counting.iterations) == 4 * ITERATIONS  # no checkpoint of the other settings is used
    assert again["rows"][0] == first["rows"][0]  # does not depend on the rate
    assert [row["value"] for row in again["rows"][1:]] == [4.0, 4.5, 4.0, 4.5]
    assert len(again["runs"]) == 4


def test_lost_rows_are_made_again_from_the_checkpoint(
    call: Callable[..., dict[str, Any]], counting: Counting, tmp_path: Path
) -> None:
    first = call()
    counting.iterations.clear()
    lost = {**first, "rows": [row for row in first["rows"] if row["name"] != "slow"]}
    (tmp_path / "results" / "counting.json").write_text(json.dumps(lost))
    again = call()
    assert counting.iterations == []
    assert sorted(map(str, again["rows"])) == sorted(map(str, first["rows"]))
    assert again["runs"] == first["runs"]


def test_rows_of_unknown_settings_are_left_alone_and_said_to_be(
    call: Callable[..., dict[str, Any]],
    counting: Counting,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = call("--seeds", "0")
    for row in first["rows"]:
        del row["settings"], row["origin"]
        row["value"] = -1.0
    first["machine"] = "an old one"
    (tmp_path / "results" / "counting.json").write_text(json.dumps(first))
    counting.iterations.clear()
    content = call("--seeds", "0")
    assert "3 have rows of unknown settings" in capsys.readouterr().out
    assert (content, counting.iterations) == (first, [])
    content = call("--seeds", "1")
    assert [row["value"] for row in content["rows"] if row["seed"] != 1] == [-1.0] * 3
    assert content["machine"] == "an old one"
    content = call("--seeds", "0", "1", "--fresh")
    assert -1.0 not in [row["value"] for row in content["rows"]]
    assert "machine" not in content
    assert all("origin" in row for row in content["rows"])


def test_fresh_makes_only_what_is_selected_again(
    call: Callable[..., dict[str, Any]], counting: Counting
) -> None:
    first = call()
    counting.iterations.clear()
    again = call("--fresh", "--learners", "^slow$", "--seeds", "1")
    assert counting.iterations == list(range(ITERATIONS))
    assert names(again) == names(first)
    assert all("--fresh" not in origin["command"] for origin in again["origins"].values())


@pytest.fixture
def minutes(monkeypatch: pytest.MonkeyPatch, counting: Counting) -> None:
    """A clock on which every iteration that is trained takes a minute."""
    monkeypatch.setattr(jobs.time, "monotonic", lambda: 60.0 * len(counting.iterations))


def test_minutes_stop_cleanly_and_the_same_command_goes_on(
    call: Callable[..., dict[str, Any]],
    counting: Counting,
    minutes: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = ["counting", "--seeds", "0", "--minutes", "9"]
    calls = 0
    while calls < 30:
        before = len(counting.iterations)
        assert command.main(line, tmp_path / "results") == 0
        calls += 1
        said = capsys.readouterr().out
        if "all done" in said:
            break
        assert "go on: python -m runs counting --seeds 0 --minutes 9" in said
        assert 9 <= len(counting.iterations) - before <= 12
    assert calls == 9  # the last one judges
    assert counting.iterations == [*range(ITERATIONS), *range(ITERATIONS)]  # none twice
    content = call("--seeds", "0")
    assert [trained["seconds"] for trained in content["runs"]] == [60 * ITERATIONS] * 2


def test_fresh_minutes_go_on_without_fresh(
    call: Callable[..., dict[str, Any]], counting: Counting, minutes: None, tmp_path: Path
) -> None:
    first = call("--seeds", "0")
    counting.iterations.clear()
    interrupted = call("--seeds", "0", "--fresh", "--minutes", "50")
    assert len(counting.iterations) == 50 + 2
    assert names(interrupted) == names(first)  # shown until they are replaced
    stale = [row["settings"] == record.STALE for row in interrupted["rows"]]
    assert stale == [False, False, True]
    assert scores(call("--seeds", "0", "--minutes", "1000")) == scores(first)
    assert len(counting.iterations) == 2 * ITERATIONS


def test_an_interrupted_leg_is_counted_in_the_time(
    call: Callable[..., dict[str, Any]],
    counting: Counting,
    minutes: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    counting.interrupt_at = 30
    line = ["counting", "--seeds", "0", "--learners", "^slow$"]
    assert command.main(line, tmp_path / "results") == 130
    assert "to go on: python -m runs counting" in capsys.readouterr().err
    counting.interrupt_at = None
    content = call(*line[1:])
    assert counting.iterations == list(range(ITERATIONS))
    assert content["runs"][0]["seconds"] == 60 * ITERATIONS


WRITER = """
import sys
from pathlib import Path
from runs.record import Recorder

folder, seed = Path(sys.argv[1]), int(sys.argv[2])
about = {"title": "T", "config": {}, "protocol": "P."}
recorder = Recorder("many", lambda: about, "a command", [0], folder)
print("ready", flush=True)
sys.stdin.readline()
for n in range(20):
    row = {"name": f"row {n}", "seed": seed, "settings": "s"}
    recorder.put(lambda other: False, rows=[row], runs=[], curves=[])
"""


def test_writers_at_the_same_time_lose_no_rows(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=record.ROOT,
        )
        for seed in range(3)
    ]
    assert [writer.stdout and writer.stdout.readline() for writer in writers] == ["ready\n"] * 3
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    content = json.loads((tmp_path / "many.json").read_text())
    rows = {(row["name"], row["seed"]) for row in content["rows"]}
    assert rows == {(f"row {n}", seed) for n in range(20) for seed in range(3)}
    assert content["seeds"] == [0, 1, 2]


def test_the_commit_is_unknown_outside_git(tmp_path: Path) -> None:
    assert record.code_version(tmp_path) == ("unknown", None)


def test_lists_of_numbers_stand_in_a_line() -> None:
    content = {"a": [1, 2.5, -3e-5], "b": [{"c": []}, "[\n 1\n]"], "d": ["x"]}
    text = record.text_of(content)
    assert json.loads(text) == content
    assert ' "a": [1, 2.5, -3e-05],\n' in text


@pytest.mark.parametrize("run", command.RUNS.values(), ids=lambda run: run.name)
def test_every_job_of_a_run_has_settings_and_rows_of_its_own(run: LongRun) -> None:
    made = run.jobs([0, 1])
    keys = [(job.learner, job.setting, job.seed) for job in made]
    assert len(set(keys)) == len(keys)
    for job in made:
        assert re.fullmatch("[0-9a-f]{12}", job.digest)
        own = {"name": f"{job.learner}, rate 1", "seed": job.seed, "setting": job.setting}
        assert sum(other.owns({**own, "name": job.learner}) for other in made) <= 1
        assert sum(other.owns(own) for other in made) <= 1
