"""The measures of the benchmarks: what they check, weigh and count is right. Nothing is timed."""

import dataclasses
import threading

import pytest
import torch

from benchmarks import peers, report
from benchmarks.floor import count
from benchmarks.machine import Machine
from benchmarks.measure import REFERENCE, Effort, Row, Workload, compare, quartiles
from benchmarks.workloads.sine import sine
from tests.plainly import in_new_process

ONCE = Effort(runs=1, seconds=0, warm=0)


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine("cpu", threads=1)


def rows_of(workload: Workload, machine: Machine, effort: Effort = ONCE) -> dict[str, Row]:
    return {row.contender: row for row in compare(workload, machine, effort)}


@pytest.mark.parametrize("first_order", [False, True])
def test_contenders_agree_in_the_meta_gradient(machine, first_order):
    few = {**peers.BASIC, "inside": peers.torch_func_inside}
    work = sine(tasks=3, steps=2, width=5, first_order=first_order, contenders=few)
    for name, row in rows_of(work, machine).items():
        assert row.note == ""
        assert not row.wrong
        assert (row.error is None) == (name == REFERENCE)
        assert len(row.seconds) == 1


def test_a_wrong_contender_is_timed_and_reported_as_wrong(machine):
    def one_step_too_few(work):
        return peers.plain_loop(dataclasses.replace(work, steps=work.steps - 1))

    work = sine(tasks=2, steps=2, width=3, contenders={**peers.BASIC, "hasty": one_step_too_few})
    rows = rows_of(work, machine)
    assert rows["hasty"].wrong
    assert rows["hasty"].seconds
    lines = report.table(report.entry(work, list(rows.values()))).splitlines()
    assert [line.split()[0] for line in lines if line.endswith("WRONG")] == ["hasty"]


def test_a_contender_that_is_not_there_is_left_out_and_says_why(machine):
    def absent(work):
        import a_library_that_nobody_has  # noqa: F401

    work = sine(tasks=2, width=3, contenders={**peers.BASIC, "absent": absent})
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
        peers.plain_loop(sine(tasks=n, width=4).work(torch.float32, machine.device)) for n in (1, 3)
    ]
    one, three = (count(step) for step in work)
    assert three.flops == 3 * one.flops
    assert 2.8 * one.operations < three.operations < 3.2 * one.operations
    assert 2.8 * one.saved < three.saved <= 3 * one.saved


def test_quartiles():
    assert quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == (2.0, 3.0, 4.0)
    assert quartiles([2.0]) == (2.0, 2.0, 2.0)


def test_a_contender_that_does_other_work_is_weighed_and_not_compared(machine):
    def other(work):
        step = peers.plain_loop(dataclasses.replace(work, steps=0))
        return lambda: step()[:0]

    rows = rows_of(sine(tasks=2, width=3, contenders={**peers.BASIC, "other": other}), machine)
    assert rows["other"].note == ""
    assert rows["other"].error is None
    assert rows["other"].seconds


@pytest.mark.parametrize(("warm", "calls"), [(0, 0), (2, 7)])
def test_a_contender_is_warmed_up_as_its_workload_asks(machine, warm, calls):
    counted = []
    workload = Workload(
        "counting",
        lambda dtype, device: None,
        {
            "metanotes": lambda _: lambda: counted.append("ours") or (),
            "another": lambda _: lambda: counted.append("another") or (),
        },
        reference="",
        warm={"metanotes": 7},
    )
    compare(workload, machine, Effort(runs=0, seconds=0, most=0, warm=warm))
    ours, another = counted.count("ours"), counted.count("another")
    assert (ours, another) == (1 + calls + 1, 1 + warm + 1)  # the first, and that for its memory


def test_small_networks_ask_for_recordings_where_there_are_any(monkeypatch, machine):
    work = sine(tasks=2, width=3).work(torch.float32, machine.device)
    asked = []

    class WithRecordings(peers.MAML):
        def __init__(self, *arguments, record=False, **options):
            asked.append(record)
            super().__init__(*arguments, **options)

    class Without(peers.MAML):
        def __init__(self, model, inner_lr, steps, first_order, loss):
            super().__init__(model, inner_lr, steps, first_order=first_order, loss=loss)

    for kind in (WithRecordings, Without):
        monkeypatch.setattr(peers, "MAML", kind)
        for small in (True, False):
            assert peers.maml(work, small=small)(work.tasks).shape == (2,)
    assert asked == [True, False]
