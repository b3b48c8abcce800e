"""A learner that does not descend: prototypes (Snell, Swersky and Zemel 2017).

    c_k = mean of body(x) over the examples of class k,    logit_k(x) = -|body(x) - c_k|^2

What the engine gives to any such learner, beside a plain loop over the tasks; and the memory of
its evaluation beside that of MAML's, with the same network on the same tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.measure import OURS, REFERENCE, Step, Workload
from benchmarks.meta_step import MetaStep, images, meta_step
from benchmarks.peers import maml
from benchmarks.workloads.evaluation import TASKS, WAYS, drawn, evaluated, looped, outputs, title
from metanotes import PrototypicalNetwork
from metanotes.nets import conv4


def body_of(work: MetaStep) -> nn.Module:
    """The network without its head."""
    assert isinstance(work.model, nn.Sequential)
    return work.model[:-1]


def means(z: Tensor, y: Tensor) -> Tensor:
    """Of the features of each class of one task."""
    return torch.stack([z[y == k].mean(0) for k in range(WAYS)])


def distances(z: Tensor, centres: Tensor) -> Tensor:
    """To every centre, squared: `[M, ways]`."""
    return (z[:, None] - centres).square().sum(-1)


def plain_loop(work: MetaStep) -> Step:
    """Task by task, ordinary autograd."""
    body = body_of(work)

    def backward() -> None:
        for x, y, xq, yq in work.each_task():
            work.mean(work.loss(-distances(body(xq), means(body(x), y)), yq)).backward()

    return work.step(backward)


def metanotes(work: MetaStep) -> Step:
    """Ours."""
    learner = PrototypicalNetwork(body_of(work), WAYS)
    return work.step(lambda: learner(work.tasks).mean().backward())


def training(tasks: int = 16, width: int = 64) -> Workload:
    """A meta-step, 5-way 1-shot with 15 queries a class."""
    return meta_step(
        f"prototypes, conv4-{width}",
        partial(conv4, WAYS, width),
        partial(images, ways=WAYS),
        cross_entropy,
        {REFERENCE: plain_loop, OURS: metanotes},
        count=tasks,
        inner_lr=0.4,
        steps=0,
    )


def evaluation(tasks: int = TASKS, transductive: bool = True) -> Workload:
    """Its evaluation; MAML's is there to be weighed beside."""

    def loop(work: MetaStep) -> Step:
        body = body_of(work)

        @torch.no_grad()
        def predict(x: Tensor, y: Tensor, xq: Tensor) -> Tensor:
            def logits(xq: Tensor) -> Tensor:
                return -distances(body(xq), centres)

            centres = means(body(x), y)
            return outputs(logits, x, xq, alone=not transductive)

        return looped(predict, work, tasks)

    def ours(work: MetaStep) -> Step:
        return evaluated(PrototypicalNetwork(body_of(work), WAYS), work, tasks, transductive)

    def beside(work: MetaStep) -> Step:
        step = evaluated(maml(work), work, tasks, transductive)
        return lambda: step()[:0]  # other work: nothing to compare

    contenders = {REFERENCE: loop, OURS: ours, "metanotes, MAML instead": beside}
    name = title("prototypes", "conv4-64", tasks, transductive)
    return Workload(name, partial(drawn, "conv4-64"), contenders, parts=tasks)


def standard() -> Iterator[Workload]:
    """What `make bench` measures."""
    yield training()
    for transductive in (True, False):
        yield evaluation(transductive=transductive)


def quick() -> Iterator[Workload]:
    """Small ones."""
    yield training(tasks=2, width=8)
    yield evaluation(tasks=2)
