"""The command: what it chooses, prints and records. Nothing is timed."""

import json
from pathlib import Path

import pytest

from benchmarks import options
from benchmarks.__main__ import grown, main
from benchmarks.machine import Machine
from benchmarks.measure import REFERENCE, Curve
from benchmarks.peers import BASIC
from benchmarks.workloads.convolutional import conv
from benchmarks.workloads.sine import sine

RESULTS = Path(__file__).parents[2] / "results"


def names(*arguments: str) -> list[str]:
    return [work.name for work in options.chosen(options.parse(list(arguments)))]


def test_settings_are_arguments_of_a_workload():
    settings = options.settings("tasks=3,pool=max,first_order=1")
    assert settings == {"tasks": 3, "pool": "max", "first_order": 1}
    assert conv(**settings).name.endswith("3 tasks, 1 step, first order")
    assert names("--conv", "tasks=3", "--sine", "steps=2") == [conv(3).name, sine(steps=2).name]


def test_only_looks_into_files_and_names():
    assert names("--only", "LSTM") == names("--only", "^unroll/")
    assert len(names("--only", "LSTM")) == 1
    assert {name.split(":")[0] for name in names("--only", "^bilevel/")} == {
        "reverse",
        "neumann",
        "cg",
    }
    with pytest.raises(SystemExit, match="no workload has such a name"):
        main(["--only", "nonsense"])


def test_curves_follow_what_is_chosen():
    def curves(*arguments: str) -> list[str]:
        return [curve.name for curve in options.curves(options.parse(list(arguments)))]

    assert curves("--only", "cost") == ["cost with steps", "cost with hyperparameters"]
    assert len(curves()) == 5
    assert curves("--no-growth") == curves("--quick") == curves("--sine", "tasks=2") == []


@pytest.mark.parametrize(
    ("arguments", "full"),
    [([], True), (["--device", "cuda", "--no-growth"], True), (["--only", "conv"], False)],
)
def test_a_record_of_the_results_is_written_by_a_full_run_alone(arguments, full):
    assert options.is_full(options.parse(arguments)) == full


def test_a_record_names_no_path_outside_the_results():
    line = options.command(["--runs", "9", "--record", "kept/a.json", "--plots=kept"])
    assert line == "python -m benchmarks --runs 9"
    line = options.command(["--only", "a b", "--against", "../old", "--record=results/a.json"])
    assert line == "python -m benchmarks --only 'a b' --record results/a.json"


def test_a_quick_run_prints_draws_and_records(tmp_path, capsys):
    path = tmp_path / "results" / "quick.json"
    arguments = ["--quick", "--threads", "1", "--record", str(path), "--plots", str(tmp_path)]
    main([*arguments, "--only", "^(sine|convolutional)/"])
    record = json.loads(path.read_text(encoding="utf-8"))
    printed = capsys.readouterr().out
    assert len(record["workloads"]) == 2
    for entry in record["workloads"]:
        assert entry["workload"] in printed
        assert {row["name"] for row in entry["contenders"]} == set(BASIC)
        for row in entry["contenders"]:
            assert "note" not in row
            assert row["name"] == "torch.func" or not row.get("wrong")
            assert row["ratio"][0] <= row["ratio"][1] <= row["ratio"][2]
        assert entry["floor"]["gflop"] > 0
    assert [p.name for p in path.parent.iterdir()] == ["quick.json"]
    assert len(list(tmp_path.glob("*.svg"))) == 1
    assert str(tmp_path) not in path.read_text(encoding="utf-8")


def test_records_keep_the_shape_that_the_chapters_read():
    def at(tasks: int):
        return sine(tasks, width=3, contenders={n: BASIC[n] for n in (REFERENCE, "metanotes")})

    machine = Machine("cpu", threads=1)
    kept = grown(
        [Curve("a", "tasks", (1, 2), at), Curve("b", "steps", (2, 3), at, "curves")], machine
    )
    benchmark = RESULTS / "benchmarks" / "amd-epyc-2-threads.json"
    growth = json.loads(benchmark.read_text(encoding="utf-8"))["growth"]
    assert all(point.keys() == growth[0].keys() for point in kept["growth"])
    assert [(point["axis"], point["value"]) for point in kept["growth"]] == [
        ("tasks", 1),
        ("tasks", 2),
    ]
    cost = json.loads((RESULTS / "hypergradients" / "cost.json").read_text(encoding="utf-8"))
    (curve,) = kept["curves"]
    assert curve.keys() == cost["curves"][0].keys()
    assert (curve["axis"], curve["values"]) == ("steps", [2, 3])
    for mode in curve["modes"].values():
        assert mode.keys() == cost["curves"][0]["modes"]["reverse"].keys()
        assert all(seconds > 0 for seconds in mode["seconds"])
        assert len(mode["bytes"]) == 2
