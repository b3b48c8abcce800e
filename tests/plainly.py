"""Tasks and models for the tests of the inner loop, and MAML's gradient as one would write it."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from metanotes import Batch, Task
from metanotes.data import data_folder
from metanotes.engine import plan
from metanotes.engine import recordings as engine_recordings
from metanotes.nets import conv4


def image_tasks(tasks: int = 3, ways: int = 5, queries: int = 7, size: int = 28) -> Task:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(tasks, ways, 1, size, size, generator=g, dtype=torch.float64)
    y = torch.stack([torch.randperm(ways, generator=g) for _ in range(tasks)])
    xq = torch.randn(tasks, queries, 1, size, size, generator=g, dtype=torch.float64)
    return Task(Batch(x, y), Batch(xq, torch.randint(ways, (tasks, queries), generator=g)))


def vector_tasks(tasks: int = 4, shots: int = 6, queries: int = 3) -> Task:
    g = torch.Generator().manual_seed(1)
    x, xq = (torch.randn(tasks, n, 2, generator=g).double() for n in (shots, queries))
    return Task(Batch(x, x.sin() @ torch.ones(2, 1).double()), Batch(xq, xq[..., :1].cos()))


def shaken(model: nn.Module) -> nn.Module:
    """In float64, and away from the symmetric initial values of normalisation layers."""
    g = torch.Generator().manual_seed(2)
    model.double()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=g, dtype=p.dtype)
    return model


def plain_loop(model, tasks, inner_lr, steps, loss, first_order=False) -> list[Tensor]:
    """MAML's gradient as one would write it first: task by task, step by step."""
    start = {n: p for n, p in model.named_parameters() if p.requires_grad}
    total = torch.zeros((), dtype=torch.float64)
    for x, y, xq, yq in zip(*tasks.support, *tasks.query, strict=True):
        theta = dict(start)
        for _ in range(steps):
            value = loss(functional_call(model, theta, (x,)), y)
            grads = torch.autograd.grad(
                value, list(theta.values()), create_graph=not first_order, allow_unused=True
            )
            theta = {
                n: t if g is None else t - inner_lr * g
                for (n, t), g in zip(theta.items(), grads, strict=True)
            }
        total = total + loss(functional_call(model, theta, (xq,)), yq) / len(tasks.support.x)
    return list(torch.autograd.grad(total, list(start.values()), allow_unused=True))


def relative_error(a, b) -> float:
    a, b = (torch.cat([t.flatten() for t in ts if t is not None]) for ts in (a, b))
    return float((a - b).norm() / b.norm())


def meta_gradient(learner, tasks) -> list[Tensor]:
    phi = [p for p in learner.parameters() if p.requires_grad]
    return list(torch.autograd.grad(learner(tasks).mean(), phi))


class Attention(nn.Module):
    """A transformer block over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(28, 8) for _ in range(3))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, 0]
        a = F.softmax(self.q(x) @ self.k(x).mT / 8**0.5, -1)
        return self.head(self.norm(a @ self.v(x)).mean(1))


class Tied(nn.Module):
    """Two layers that share their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(28, 28), nn.Linear(28, 28), nn.Linear(28, 5)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x[:, 0]).tanh()).tanh().mean(1))


class Recurrent(nn.Module):
    """An LSTM over the rows: `vmap` cannot batch it."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(28, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for row in x[:, 0].unbind(1)[::7]:
            state = self.cell(row, state)
        return self.head(state[0])


class Branching(nn.Module):
    """A forward that looks at its data."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(784, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.head(x.flatten(1))
        return h.tanh() if x.mean() > 0 else h.sin()


class Residual(nn.Module):
    """Convolutions of every kind, and a value that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, stride=3, padding="valid", bias=False)
        self.norm = nn.BatchNorm2d(4, affine=False, track_running_stats=False)
        self.same = nn.Conv2d(4, 4, 3, padding="same")
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.dilated = nn.Conv2d(4, 4, 3, padding=2, dilation=2)
        self.reflected = nn.Conv2d(4, 4, (1, 2), padding=(0, 1), padding_mode="reflect")
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        for layer in (self.same, self.grouped, self.dilated):
            x = x + layer(F.elu(x))
        return self.head(self.reflected(x).view(len(x), 4, -1).mean(2))


def frozen_body() -> nn.Module:
    model = conv4(5, channels=4)
    model[0].requires_grad_(False)
    return model


MODELS = {
    "conv, affine batch norm": lambda: conv4(5, channels=6),
    "max-pooling": lambda: conv4(5, channels=6, pool="max"),
    "group norm": lambda: nn.Sequential(
        nn.Conv2d(1, 6, 3, 4), nn.GroupNorm(3, 6), nn.ELU(), nn.Flatten(), nn.Linear(6 * 49, 5)
    ),
    "transformer block, layer norm": Attention,
    "shared weights": Tied,
    "frozen parameters": frozen_body,
    "convolutions of every kind": Residual,
    "no batching rule": Recurrent,
    "branches on data": Branching,
}


@contextmanager
def in_groups_of(size: int | None) -> Iterator[None]:
    """New plans find everything large, in groups of so many tasks; or, of None, all small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "LARGE", 1 << 62 if size is None else -1)
        patch.setattr(plan, "_group", lambda learner, flops: size)
        yield


@contextmanager
def recorded_at_once() -> Iterator[None]:
    """What may be recorded is recorded at the second sight, and every play is checked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_recordings, "SIGHTS", 1)
        patch.setattr(engine_recordings, "CHECKED", 1)
        yield


def recordings(learner: Any) -> list[Any]:
    """The recordings that a learner has."""
    kept = learner.workshop.recordings.values()
    return [entry for entry in kept if isinstance(entry, engine_recordings.Recording)]


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of a module returns in a process of its own, whose heap no test has used."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def needs_data(name: str) -> pytest.MarkDecorator:
    """Skip a test where METANOTES_DATA lacks a data set; a folder of our own arrays is none."""
    there = any(path.suffix != ".npz" for path in (data_folder() / name).glob("*"))
    return pytest.mark.skipif(not there, reason=f"needs {name} in METANOTES_DATA")
