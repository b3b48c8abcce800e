"""The script for a GPU, in its form for a processor: what it records, and when something fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import parts
from benchmarks.gpu.parts import PARTS, Part
from benchmarks.gpu.record import DONE, FAILED, LEFT_OUT, RUNNING, TOO_LONG, Record
from benchmarks.gpu.setting import Setting
from benchmarks.machine import Machine
from tests.plainly import needs_data

ROOT = Path(__file__).parents[2]
HERE = {part.name: part for part in PARTS}


def rows_of(name: str, seconds: float = 60.0) -> list[dict[str, Any]]:
    setting = Setting(Machine("cpu", threads=1), small=True, end=time.monotonic() + seconds)
    rows = list(HERE[name].rows(setting))
    json.dumps(rows)
    assert [row for row in rows if "failed" in row and isinstance(row["failed"], str)] == []
    return rows


def test_all_parts_together_take_eight_minutes_and_the_first_ones_matter_most() -> None:
    assert [part.name for part in PARTS][:3] == ["device", "tests", "meta-steps"]
    assert [part.name for part in PARTS][-2:] == ["omniglot", "mini-imagenet"]
    assert sum(part.seconds for part in PARTS[:-2]) <= 8.5 * 60


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", ["meta-steps", "layers", "replays"])
def test_contenders_are_measured_and_agree(name: str) -> None:
    for row in rows_of(name):
        for contender in row["contenders"]:
            if "CUDA graph" in contender["name"] and "conv" in row["workload"]:
                assert "on a processor are not recorded" in contender["note"]
                continue
            assert "note" not in contender, contender
            if contender["name"] != "torch.func":  # wrong with batch normalization, torch 2.13
                assert not contender.get("wrong"), contender
        assert row["floor"]["gflop"] > 0


def test_rounding_is_measured_with_its_error() -> None:
    exact, rounded = rows_of("precision")
    assert exact["error"] < 1e-4 < rounded["error"] < 0.5


def test_a_large_phi_is_measured_in_every_way() -> None:
    rows = rows_of("large phi")
    assert len({row["way"] for row in rows}) == len(rows) == 6
    differences = {row["way"]: row["difference"] for row in rows}
    for way, difference in differences.items():
        assert difference < (0.5 if "bfloat16" in way or "first" in way else 1e-4), way


def test_a_learner_is_trained_for_the_time_there_is() -> None:
    rows = rows_of("omniglot", seconds=4)
    assert [row["name"] for row in rows[::3]] == ["MAML", "PrototypicalNetwork"]
    for curve, transductive, alone in (rows[:3], rows[3:]):
        assert len(curve["curve"]["value"]) == len(curve["curve"]["iteration"]) >= 2
        assert (transductive["transductive"], alone["transductive"]) == (True, False)
        assert 0 <= alone["value"] <= 1


@needs_data("mini-imagenet")
def test_mini_imagenet_is_trained_on_likewise() -> None:
    curve, *scores = rows_of("mini-imagenet", seconds=4)
    assert "42x42" in curve["data"]
    assert len(scores) == 2


def test_without_mini_imagenet_the_part_says_so(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("METANOTES_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="mini-ImageNet is not in"):
        rows_of("mini-imagenet")


def test_the_device_is_described() -> None:
    (row,) = rows_of("device")
    assert row["torch"] == torch.__version__


def test_what_fails_is_a_row_and_what_spoils_the_device_ends_the_part() -> None:
    def fails(message: str) -> dict[str, Any]:
        raise RuntimeError(message)

    row = parts.attempted({"workload": "a"}, lambda: fails("out of memory"))
    assert row == {"workload": "a", "failed": "RuntimeError: out of memory"}
    with pytest.raises(RuntimeError, match="illegal"):
        parts.attempted({}, lambda: fails("CUDA error: an illegal memory access"))


# ----------------------------------------------------------------------------- the command


@pytest.mark.slow
def test_the_command_runs_parts_in_processes_and_goes_on_after_a_failure(tmp_path: Path) -> None:
    """In a process of its own, with a data folder that lacks what a part needs."""
    path = tmp_path / "record.json"
    line = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--small"]
    line += ["--only", "^(tests|mini)", "--record", str(path)]
    done = subprocess.run(
        line, cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "METANOTES_DATA": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(path.read_text(encoding="utf-8"))
    tests, mini = record["parts"]
    assert (tests["status"], mini["status"]) == (DONE, FAILED)
    assert tests["rows"] == [{"passed": 1, "failed": 0, "skipped": 0}]
    assert mini["error"].startswith("FileNotFoundError: mini-ImageNet is not in")
    assert record["device"]
    assert "mini-imagenet: failed" in done.stdout


def slow(setting: Setting) -> Any:
    raise AssertionError("runs in another process")


def test_what_takes_too_long_is_ended_with_its_children_and_its_rows_stay(
    tmp_path: Path, monkeypatch
) -> None:
    record = Record(tmp_path / "record.json")
    record.write({"parts": []})
    record.begin("slow", "it sleeps")
    record.add("slow", {"first": 1})
    script = "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); time.sleep(60)"
    real = subprocess.Popen

    def sleeper(line: list[str], **settings: Any) -> Any:
        return real([sys.executable, "-c", script], **settings)

    monkeypatch.setattr(command.subprocess, "Popen", sleeper)
    start = time.monotonic()
    opts = command.parse(["--device", "cpu", "--small"])
    command.started(Part("slow", "", 1.0, slow), opts, record, 1.0)
    assert time.monotonic() - start < 20
    (part,) = record.read()["parts"]
    assert (part["status"], part["rows"]) == (TOO_LONG, [{"first": 1}])


def test_when_no_time_is_left_a_part_is_left_out(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "record.json"
    monkeypatch.setattr(command.report, "commit", lambda root: "")
    command.main(
        ["--device", "cpu", "--small", "--minutes", "0.1", "--record", str(path), "--only", "^lay"]
    )
    (part,) = json.loads(path.read_text(encoding="utf-8"))["parts"]
    assert (part["status"], part["error"]) == (LEFT_OUT, "no time was left")


def test_a_part_that_runs_is_in_the_record_already(tmp_path: Path) -> None:
    record = Record(tmp_path / "a" / "record.json")
    record.write({"parts": []})
    record.begin("device", "about")
    assert record.read()["parts"][0]["status"] == RUNNING
    record.end("device", FAILED, 1.23, "why")
    record.end("device", FAILED, 1.3, "what the parent saw")
    assert record.read()["parts"][0]["error"] == "why"


@pytest.mark.skipif(torch.cuda.is_available(), reason="for a machine without a GPU")
def test_without_a_gpu_the_command_says_what_would_do() -> None:
    with pytest.raises(SystemExit, match="--device cpu --small"):
        command.main([])
