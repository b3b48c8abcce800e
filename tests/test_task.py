"""Which tasks are refused, and what is said of them."""

import pytest
import torch

from metanotes import MAML, Batch, Task, mse
from metanotes.nets import mlp
from metanotes.task import check_tasks, task_to


def tasks(x=(3, 5, 2), y=(3, 5, 1), xq=(3, 4, 2), yq=(3, 4, 1)) -> Task:
    return Task(Batch(torch.zeros(x), torch.zeros(y)), Batch(torch.zeros(xq), torch.zeros(yq)))


def test_good_tasks_pass():
    check_tasks(tasks())


@pytest.mark.parametrize("kind", [lambda t: t.numpy(), lambda t: t.tolist()])
def test_what_is_no_tensor_is_refused(kind):
    good = tasks()
    bad = Task(Batch(kind(good.support.x), good.support.y), good.query)
    with pytest.raises(TypeError, match=r"support.x is a (ndarray|list), .*torch.as_tensor"):
        check_tasks(bad)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"xq": (2, 4, 2), "yq": (2, 4, 1)}, r"same number of tasks.*query.x \[2, 4, 2\]"),
        ({"y": (3, 6, 1)}, "support.x and support.y differ"),
        ({"yq": (3, 5, 1)}, "query.x and query.y differ"),
        ({"y": (3,)}, "needs a task axis and an example axis"),
        ({"x": (3, 0, 2), "y": (3, 0, 1)}, "at least one task and one example"),
    ],
)
def test_shapes_that_disagree_are_refused(shapes, message):
    with pytest.raises(ValueError, match=message):
        check_tasks(tasks(**shapes))
    with pytest.raises(ValueError, match=message):
        MAML(mlp(2, 1), inner_lr=0.1, loss=mse)(tasks(**shapes))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["support.x", "support.y", "query.x", "query.y"])
def test_values_that_are_not_finite_are_refused(where, value):
    bad, (batch, part) = tasks(), where.split(".")
    getattr(getattr(bad, batch), part)[1, 2] = value
    with pytest.raises(ValueError, match=f"{where} has NaN or infinite values"):
        check_tasks(bad)


def test_tasks_move_between_devices():
    moved = task_to(tasks(), "meta")
    assert {t.device.type for batch in moved for t in batch} == {"meta"}
