"""Meta-steps of the learners that compare: matching, Siamese, relation and logistic networks.

The plain loops compare as the papers write it. So the relation network's lays every query's map on
every class's, where ours lets the first layer work on each map once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measure import OURS, REFERENCE, Step, Workload
from benchmarks.meta_step import MetaStep, images, meta_step
from metanotes import Learner, LogisticNetwork, MatchingNetwork, RelationNetwork, SiameseNetwork
from metanotes.methods.comparison import map_relation, pair_loss, sigmoid_mse
from metanotes.nets import conv4

PlainLoss = Callable[[nn.Module, Tensor, Tensor, Tensor, Tensor], Tensor]  # of one task


def matching(learner: nn.Module, x: Tensor, y: Tensor, xq: Tensor, yq: Tensor) -> Tensor:
    """Attention by cosines."""
    assert isinstance(learner, MatchingNetwork)
    g, f = (F.normalize(learner.body(images), dim=1) for images in (x, xq))
    attention = (f @ g.T / learner.temperature).softmax(1)
    p = torch.stack([attention[:, y == k].sum(1) for k in range(learner.ways)], 1)
    return -p.gather(1, yq[:, None]).log().mean()


def siamese(learner: nn.Module, x: Tensor, y: Tensor, xq: Tensor, yq: Tensor) -> Tensor:
    """All pairs."""
    assert isinstance(learner, SiameseNetwork)
    z, labels = torch.cat([learner.body(x), learner.body(xq)]), torch.cat([y, yq])
    i, j = torch.triu_indices(len(z), len(z), 1, device=z.device)
    r = (z[i] - z[j]).abs() @ learner.alpha + learner.b
    return pair_loss(r, labels[i] == labels[j])


def relation(learner: nn.Module, x: Tensor, y: Tensor, xq: Tensor, yq: Tensor) -> Tensor:
    """Maps one on the other."""
    assert isinstance(learner, RelationNetwork)
    g: Any = learner.relation
    z, queries = learner.body(x), learner.body(xq)
    classes = torch.stack([z[y == k].sum(0) for k in range(learner.ways)])
    size = len(queries), len(classes), *z.shape[1:]
    pairs = torch.cat([queries[:, None].expand(size), classes[None].expand(size)], 2).flatten(0, 1)
    weight = torch.cat([g.of_query.weight, g.of_class.weight], 1)
    h = F.conv2d(pairs, weight, g.of_query.bias, g.of_query.stride, g.of_query.padding)
    return sigmoid_mse(g.score(h).view(size[:2]), yq)


def logistic(learner: nn.Module, x: Tensor, y: Tensor, xq: Tensor, yq: Tensor) -> Tensor:
    """Ridge regressions of working targets."""
    assert isinstance(learner, LogisticNetwork)
    z, queries = (F.normalize(learner.body(images), dim=1) for images in (x, xq))
    N, Y = len(z), F.one_hot(y, learner.ways).to(z)
    inner = z @ z.T + 2 * learner.penalty * torch.eye(N).to(z)
    ones = z.new_ones(N, 1)
    matrix = torch.cat([torch.cat([inner, ones], 1), F.pad(ones.T, (0, 1))])
    solve = torch.linalg.inv(matrix)[:, :N]
    S = both = torch.zeros_like(Y)
    for _ in range(learner.steps):
        R = S + 2 * (Y - S.softmax(1))
        both = solve @ R
        S = R - 2 * learner.penalty * both[:N]
    return F.cross_entropy(queries @ z.T @ both[:N] + both[N:], yq)


def plain_loop(loss: PlainLoss, work: MetaStep) -> Step:
    """Task by task, ordinary autograd."""

    def backward() -> None:
        for task in work.each_task():
            work.mean(loss(work.model, *task)).backward()

    return work.step(backward)


def metanotes(work: MetaStep) -> Step:
    """Ours: the model is the learner."""
    return work.step(lambda: work.model(work.tasks).mean().backward())


def learners(width: int, ways: int) -> dict[str, tuple[Callable[[], Learner], PlainLoss]]:
    """What makes each, and its plain loss."""

    def related() -> Learner:
        maps = conv4(None, width, halvings=2)[:-1]
        return RelationNetwork(maps, map_relation(width), ways)

    return {
        "matching network": (lambda: MatchingNetwork(conv4(None, width), ways), matching),
        "Siamese network": (lambda: SiameseNetwork(conv4(None, width), ways), siamese),
        "relation network": (related, relation),
        "logistic network": (lambda: LogisticNetwork(conv4(None, width), ways), logistic),
    }


def training(tasks: int, width: int, ways: int, queries: int) -> Iterator[Workload]:
    """A 1-shot meta-step of each; queries a class."""
    for name, (made, loss) in learners(width, ways).items():
        yield meta_step(
            f"{name}, conv4-{width}, {ways}-way",
            made,
            partial(images, ways=ways, queries=queries),
            F.cross_entropy,  # unused: each has its own
            {REFERENCE: partial(plain_loop, loss), OURS: metanotes},
            count=tasks,
            inner_lr=0.4,
            steps=0,
        )


def standard() -> Iterator[Workload]:
    """What `make bench` measures."""
    yield from training(tasks=16, width=64, ways=5, queries=15)
    yield from training(tasks=4, width=64, ways=20, queries=5)


def quick() -> Iterator[Workload]:
    """Small ones."""
    yield from training(tasks=2, width=8, ways=3, queries=2)
