"""Tasks and a comparison for the tests of learners that answer from a set."""

import torch
from torch import Tensor, nn

from metanotes import Batch, Learner, Task


def vector_tasks(tasks: int = 4, shots: int = 6, queries: int = 3) -> Task:
    """Regression in float64: x `[T, N, 2]`, y `[T, N, 3]`, no two axes alike."""
    g = torch.Generator().manual_seed(3)
    weights = torch.randn(2, 3, generator=g, dtype=torch.float64)
    x, xq = (torch.randn(tasks, n, 2, generator=g, dtype=torch.float64) for n in (shots, queries))
    return Task(Batch(x, (x @ weights).sin()), Batch(xq, (xq @ weights).cos()))


def labelled_tasks(tasks: int = 4, ways: int = 3, shots: int = 2, queries: int = 5) -> Task:
    """Classification in float64: x `[T, N, 2]`, each class as often as another in the support."""
    g = torch.Generator().manual_seed(4)
    x = torch.randn(tasks, ways * shots, 2, generator=g, dtype=torch.float64)
    y = torch.stack([torch.randperm(ways * shots, generator=g) % ways for _ in range(tasks)])
    xq = torch.randn(tasks, queries, 2, generator=g, dtype=torch.float64)
    return Task(Batch(x, y), Batch(xq, torch.randint(ways, (tasks, queries), generator=g)))


def shuffled(batch: Batch) -> Batch:
    """The same examples, in another order."""
    order = torch.randperm(batch.y.shape[1], generator=torch.Generator().manual_seed(5))
    return Batch(batch.x[:, order], batch.y[:, order])


def assert_same_losses_and_gradient(learner: Learner, tasks: Task, losses: list[Tensor]) -> None:
    """The learner's losses, and the gradient of their mean, are those of a plain loop."""
    ours, theirs = learner(tasks), torch.stack(losses)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    phi = [p for p in learner.parameters() if p.requires_grad]
    for mine, plain in zip(
        torch.autograd.grad(ours.mean(), phi, materialize_grads=True),
        torch.autograd.grad(theirs.mean(), phi, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(mine, plain, rtol=1e-8, atol=1e-12)


def in_turn(layers: nn.Sequential, x: Tensor) -> Tensor:
    """A fully connected network by its matrices, on one vector."""
    for layer in layers:
        x = layer.weight @ x + layer.bias if isinstance(layer, nn.Linear) else x.clamp(min=0)
    return x
