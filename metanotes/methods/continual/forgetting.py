"""How much is forgotten: the accuracy on each stage of a stream, after each of them.

    R_ij = accuracy on stage j after stage i                                    i, j = 1 .. S (1)
    average accuracy  = 1/S sum_j R_Sj                                                        (2)
    backward transfer = 1/(S - 1) sum_{j < S} (R_Sj - R_jj)                                   (3)

Backward transfer is negative where a stage is forgotten, and would be positive where later ones
help an earlier one. As all classes share one set of answers, some of it is not forgetting: with
more classes to choose from, even a learner that keeps everything is more often wrong.

Source: Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017,
equations 2 and 3.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from metanotes._ground.checks import count
from metanotes._ground.modes import in_mode
from metanotes.learner import Learner
from metanotes.task import Task, select


@torch.no_grad()
def accuracy_matrix(learner: Learner, tasks: Task, stages: int) -> Tensor:
    """R of every task (1): after each part of its support set, how right the queries are.

    The support set is cut into so many parts of equal length, in its order. A query belongs to the
    first part that has an example of its class. The learner is judged in evaluation mode, on all
    queries at once, and left as it was.

    Args:
        learner: adapts to the first part, to the first two, and so on, each time from the start.
        tasks: streams, and queries of the classes in them.
        stages: S, at least 2.

    Returns:
        R, `[T, S, S]`. Above the diagonal are classes that have not been shown yet.

    Raises:
        ValueError: a support set that cannot be cut so; a stage without a query, or a query of a
            class that the stream does not have.

    >>> from metanotes import SGD, StreamLearner
    >>> from metanotes.data import episodes, glyphs
    >>> from metanotes.nets import mlp
    >>> streams = episodes(glyphs("background"), ways=10, shots=3, queries=2)(4)
    >>> learner = StreamLearner(torch.nn.Sequential(torch.nn.Flatten(), mlp(784, 10)), SGD(lr=0.1))
    >>> R = accuracy_matrix(learner, streams, stages=5)               # two classes a stage
    >>> R.shape, average_accuracy(R).shape
    (torch.Size([4, 5, 5]), torch.Size([4]))
    """
    support, (x, y) = tasks
    examples = support.y.shape[1]
    if examples % count("stages", stages, least=2):
        raise ValueError(
            f"stages={stages} parts of equal length cannot be made of {examples} support examples"
        )
    length = examples // stages
    parts = support.y.unflatten(1, (stages, length))
    has = (parts[..., None] == y[:, None, None]).any(2)  # [T, S, M]
    if not has.any(1).all():
        raise ValueError("a query's class is nowhere in the stream: leave such queries out")
    of_stage = one_hot(has.int().argmax(1), stages).double()  # [T, M, S]
    if not of_stage.any(1).all():
        raise ValueError("a stage has no query whose class it is the first to show")
    with in_mode(learner, training=False):
        rows = []
        for i in range(1, stages + 1):
            adapted = learner.adapt(select(support, (slice(None), slice(i * length))))
            right = (learner.predict(adapted, x).argmax(2) == y).double()
            rows.append((right[:, None] @ of_stage).squeeze(1) / of_stage.sum(1))
    return torch.stack(rows, 1)


def average_accuracy(R: Tensor) -> Tensor:
    """(2), the accuracy over all stages at the end: R `[..., S, S]` to `[...]`.

    >>> average_accuracy(torch.tensor([[0.9, 0.0], [0.5, 0.7]]))
    tensor(0.6000)
    """
    return R[..., -1, :].mean(-1)


def backward_transfer(R: Tensor) -> Tensor:
    """(3), how much accuracy on the earlier stages has changed since: R `[..., S, S]` to `[...]`.

    >>> backward_transfer(torch.tensor([[0.9, 0.0], [0.5, 0.7]]))
    tensor(-0.4000)
    """
    return (R[..., -1, :] - R.diagonal(dim1=-2, dim2=-1))[..., :-1].mean(-1)
