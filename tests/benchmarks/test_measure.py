"""The measures of the benchmarks: what they check, weigh and count is right. Nothing is timed."""

import dataclasses
import json
import threading

import pytest
import torch

from benchmarks import bilevel, peers, report, workloads
from benchmarks.__main__ import command, main, settings
from benchmarks.measure import Effort, Machine, Row, Workload, compare, count, quartiles
from tests.plainly import in_new_process

ONCE = Effort(runs=1, seconds=0, warm=0)


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine("cpu", threads=1)


def rows_of(workload: Workload, machine: Machine) -> dict[str, Row]:
    return {row.contender: row for row in compare(workload, machine, ONCE)}


@pytest.mark.parametrize("first_order", [False, True])
def test_contenders_agree_in_the_meta_gradient(machine, first_order):
    few = {**peers.BASIC, "inside": peers.torch_func_inside}
    work = workloads.sine(tasks=3, steps=2, width=5, first_order=first_order, contenders=few)
    for name, row in rows_of(work, machine).items():
        assert row.note == ""
        assert not row.wrong
        assert (row.error is None) == (name == peers.REFERENCE)
        assert len(row.seconds) == 1


@pytest.mark.parametrize("work", bilevel.quick(), ids=lambda work: work.name.split(":")[0])
def test_contenders_agree_in_the_hypergradient(machine, work):
    for name, row in rows_of(work, machine).items():
        assert row.note == ""
        assert not row.wrong
        assert (row.error is None) == (name == bilevel.REFERENCE)


def test_a_wrong_contender_is_timed_and_reported_as_wrong(machine):
    def one_step_too_few(work):
        return peers.plain_loop(dataclasses.replace(work, steps=work.steps - 1))

    work = workloads.sine(
        tasks=2, steps=2, width=3, contenders={**peers.BASIC, "hasty": one_step_too_few}
    )
    rows = rows_of(work, machine)
    assert rows["hasty"].wrong
    assert rows["hasty"].seconds
    lines = report.table(report.entry(work, list(rows.values()))).splitlines()
    assert [line.split()[0] for line in lines if line.endswith("WRONG")] == ["hasty"]


def test_a_contender_that_is_not_there_is_left_out_and_says_why(machine):
    def absent(work):
        import a_library_that_nobody_has  # noqa: F401

    work = workloads.sine(tasks=2, width=3, contenders={**peers.BASIC, "absent": absent})
    rows = rows_of(work, machine)
    assert rows["absent"].seconds == []
    line = report.table(report.entry(work, list(rows.values()))).splitlines()[-1]
    assert "left out: ModuleNotFoundError" in line


def peaks(megabytes: float, threads: int) -> tuple[int | None, int | None]:
    """Of a step that holds so much, and then half of it, in every thread; and of nothing."""

    def hold() -> None:
        a = torch.ones(int(megabytes * 250_000))
        del a
        torch.ones(int(megabytes * 125_000))  # half of it, later

    def step() -> None:
        workers = [threading.Thread(target=hold) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if not workers:
            hold()

    machine = Machine("cpu", threads=1)
    return machine.peak(step), machine.peak(lambda: None)


@pytest.mark.parametrize("threads", [0, 2])
def test_peak_memory_sees_what_was_held_at_once_in_any_thread(threads):
    megabytes = 24
    peak, nothing = in_new_process(peaks, megabytes, threads)
    if peak is None:
        pytest.skip("not Linux with glibc")
    # Two threads may or may not hold theirs at the same moment.
    assert 0.95 * megabytes < peak / 1e6 < 1.1 * megabytes * max(threads, 1)
    assert nothing < 1e6


def test_operations_of_a_linear_layer_are_those_of_a_count_by_hand():
    n, wide, narrow = 7, 5, 3
    layer = torch.nn.Linear(wide, narrow)
    x = torch.randn(n, wide)
    forward = count(lambda: layer(x))
    assert forward.flops == 2 * n * wide * narrow
    assert forward.operations == 1  # addmm; the transposed weight is a view
    both = count(lambda: layer(x).sum().backward())
    assert both.flops == 2 * forward.flops  # and the gradient of the weight; x needs none


def test_memory_that_the_backward_pass_needs_is_counted_once_while_it_is_held():
    x = torch.randn(6, 50, requires_grad=True)

    def step() -> None:
        y = x.exp()  # saves y
        (y * y.t().t()).sum().backward()  # saves it twice more

    assert count(step).saved == x.nbytes
    assert count(lambda: [step(), step()]).saved == 2 * x.nbytes


def test_operations_of_a_meta_step_grow_with_the_tasks(machine):
    work = [
        peers.plain_loop(workloads.sine(tasks=n, width=4).work(torch.float32, machine.device))
        for n in (1, 3)
    ]
    one, three = (count(step) for step in work)
    assert three.flops == 3 * one.flops
    assert 2.8 * one.operations < three.operations < 3.2 * one.operations
    assert 2.8 * one.saved < three.saved <= 3 * one.saved


def test_quartiles():
    assert quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == (2.0, 3.0, 4.0)
    assert quartiles([2.0]) == (2.0, 2.0, 2.0)


def test_settings_are_arguments_of_a_workload():
    given = settings("tasks=3,pool=max,first_order=1")
    assert given == {"tasks": 3, "pool": "max", "first_order": 1}
    assert workloads.conv(**given).name.endswith("3 tasks, 1 step, first order")


def test_a_record_names_no_path():
    line = command(["--runs", "9", "--record", "kept/a.json", "--plots=kept"])
    assert line == "python -m benchmarks --runs 9"


def test_a_quick_run_prints_draws_and_records(tmp_path, capsys):
    path = tmp_path / "results" / "quick.json"
    arguments = ["--quick", "--threads", "1", "--record", str(path), "--plots", str(tmp_path)]
    main(arguments)
    record = json.loads(path.read_text(encoding="utf-8"))
    printed = capsys.readouterr().out
    for made in record["workloads"]:
        assert made["workload"] in printed
        assert {row["name"] for row in made["contenders"]} == set(peers.BASIC)
        for row in made["contenders"]:
            assert "note" not in row
            # torch.func is wrong where batch normalisation has weights, as of torch 2.13.
            assert row["name"] == "torch.func" or not row.get("wrong")
            assert row["ratio"][0] <= row["ratio"][1] <= row["ratio"][2]
        assert made["floor"]["gflop"] > 0
    assert [p.name for p in path.parent.iterdir()] == ["quick.json"]
    assert len(list(tmp_path.glob("*.svg"))) == 1
    assert str(tmp_path) not in path.read_text(encoding="utf-8")
