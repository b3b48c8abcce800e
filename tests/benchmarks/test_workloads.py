"""The contenders of every workload agree, on small work."""

import pkgutil

import pytest

from benchmarks import workloads
from benchmarks.machine import Machine
from benchmarks.measure import Curve, Effort, Workload, compare
from benchmarks.workloads import offered
from benchmarks.workloads.hypergradient_cost import MODES, cost

ONCE = Effort(runs=1, seconds=0, warm=0)
QUICK = dict(offered("quick"))
# torch.func is wrong where batch normalisation has weights, as of torch 2.13.
WRONG = {("convolutional", "torch.func")}


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # attention under vmap
@pytest.mark.parametrize("name", QUICK)
def test_contenders_agree(name):
    for row in compare(QUICK[name], Machine("cpu", threads=1), ONCE):
        assert row.note == ""
        assert row.wrong == ((name.split("/")[0], row.contender) in WRONG)
        assert row.seconds


def test_what_is_measured_has_names_of_its_own_and_contenders_of_ours():
    for kind in ("standard", "quick", "allocation"):
        every = [work for _, work in offered(kind)]
        assert len({work.name for work in every}) == len(every) > 1
        for work in every:
            assert isinstance(work, Workload)
            assert work.ours in work.own
            assert not work.reference or work.reference in work.contenders
            assert all(name in work.contenders for name in work.warm)


def test_every_file_is_in_the_standard_set_or_has_curves():
    files = {name.split("/")[0] for kind in ("standard", "curves") for name, _ in offered(kind)}
    assert files == {file.name for file in pkgutil.iter_modules(workloads.__path__)}


def test_curves_are_workloads_at_every_value():
    curves = dict(offered("curves"))
    assert {curve.section for curve in curves.values()} == {"growth", "curves"}
    for curve in curves.values():
        assert isinstance(curve, Curve)
        names = {curve.at(value).name for value in curve.values}
        assert len(names) == len(curve.values)


def test_every_mode_of_the_hypergradient_is_measured():
    work = cost(groups=2, steps=3, features=5, classes=3, examples=7)
    rows = compare(work, Machine("cpu", threads=1), ONCE)
    assert [row.contender for row in rows] == list(MODES)
    assert all(row.seconds and not row.note for row in rows)
