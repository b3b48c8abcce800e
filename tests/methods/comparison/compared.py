"""What the tests of the learners that compare share: uneven tasks, and the same work in a loop."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from metanotes import Batch, Learner, Task
from tests.plainly import relative_error, shaken

PlainOutputs = Callable[[Tensor, Tensor, Tensor], Tensor]  # support x and y, query x: [M, ways]
LABELS = [[2, 0, 2, 1, 0, 2, 2], [0, 0, 1, 1, 1, 2, 1], [1, 2, 0, 0, 0, 1, 0]]


def uneven_tasks(queries: int = 5, size: int = 12) -> Task:
    """Three tasks of three classes, which have from one to four examples, in any order."""
    g = torch.Generator().manual_seed(4)
    x = torch.randn(3, 7, 1, size, size - 1, generator=g, dtype=torch.float64)
    xq = torch.randn(3, queries, 1, size, size - 1, generator=g, dtype=torch.float64)
    yq = torch.randint(3, (3, queries), generator=g)
    return Task(Batch(x, torch.tensor(LABELS)), Batch(xq, yq))


def map_body() -> nn.Module:
    """Maps `[N, 4, 5, 4]`, normalised over the batch."""
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    return shaken(nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), norm, nn.ReLU()))


def body() -> nn.Module:
    """Features `[N, 6]`."""
    last = nn.Linear(4 * 5 * 5, 6)
    return nn.Sequential(map_body(), nn.Flatten(), shaken(last))


def assert_losses_and_gradient(learner: Learner, tasks: Task, plain: list[Tensor]) -> None:
    """The learner's are those of losses that were worked out task by task."""
    losses = learner(tasks)
    torch.testing.assert_close(losses, torch.stack(plain), rtol=1e-10, atol=0)
    phi = list(learner.parameters())
    ours = torch.autograd.grad(losses.mean(), phi)
    theirs = torch.autograd.grad(torch.stack(plain).mean(), phi)
    assert relative_error(ours, theirs) < 1e-9
    assert all(g.norm() > 0 for g in ours if g.numel() > 6)  # biases before a norm may have none
