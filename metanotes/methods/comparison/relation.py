"""A relation network: the comparison itself is learned (Sung et al. 2018).

    r_k(x) = g([body(x); sum_(x_i, y_i) in S_k body(x_i)])                                     (1)
    L(phi) = sum_n mean over queries and classes of (sigmoid(r_k(x)) - [y = k])^2,
                                                                         phi = body, g         (2)

The other learners of this room choose a distance and learn the features; here g, a network, is what
tells whether two feature maps belong together. The paper's loss (2) is that of a regression to 1
and 0; the cross entropy of the scores is the other choice.
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor, nn

from metanotes.engine import Computing
from metanotes.learner import Loss, mse
from metanotes.methods.comparison.features import Comparing, features_of, is_class, sums
from metanotes.task import Batch, Inputs
from metanotes.theta import over_tasks


def sigmoid_mse(r: Tensor, y: Tensor) -> Tensor:
    """(2) of one task: scores `[M, ways]` and labels `[M]` to a scalar.

    Raises:
        ValueError: y are no labels, but probabilities, say.

    >>> import torch
    >>> sigmoid_mse(torch.tensor([[9.0, -9.0], [0.0, 0.0]]), torch.tensor([0, 1]))
    tensor(0.1250)
    """
    if y.is_floating_point() or y.ndim != 1:
        raise ValueError(
            f"y is {y.dtype} {list(y.shape)}, and each comparison is with one label, 0 or 1: give "
            "labels, y.argmax(-1), or loss=metanotes.cross_entropy"
        )
    return mse(r.sigmoid(), is_class(y[None], r.shape[1])[0].mT.to(r))


class RelationNetwork(Comparing):
    """Answers with the class whose relation to the query scores highest; phi is body and relation.

    As in the paper, the maps of a class's examples are summed, not averaged: a relation that was
    trained with one example a class has not met the sum of five.

    On the map:
        phi: a body, and how its features are compared
        adapts: a sum of features for each class
        outer loss: the squared error of each comparison
        needs: first derivatives; an example of each class

    Args:
        body: any module from `[N, ...]` to features or feature maps `[N, ...]`, such as
            `conv4(None, halvings=2)[:-1]`.
        relation: g, any module from features of queries `[M, ...]` and of classes `[K, ...]` to
            scores of all pairs `[M, K]`; see `map_relation` and `feature_relation`.
        ways: classes of a task, at least 2.
        loss: of one task, from scores and labels; `metanotes.cross_entropy` is another.
        keep_graph, checkpoint, record, compile, group: see `metanotes.engine.Options`.

    Raises:
        ValueError: fewer than 2 ways; in use, labels outside them or a class without an example.

    Source: Sung, Yang, Zhang, Xiang, Torr and Hospedales, "Learning to Compare: Relation Network
    for Few-Shot Learning", CVPR 2018, equations 1 and 2.

    >>> from metanotes import RelationNetwork
    >>> from metanotes.data import episodes, glyphs
    >>> from metanotes.methods.comparison import map_relation
    >>> from metanotes.nets import conv4
    >>> body = conv4(ways=None, channels=8, halvings=2)[:-1]             # maps of 7 x 7
    >>> learner = RelationNetwork(body, map_relation(8), ways=5)
    >>> tasks = episodes(glyphs("background"), ways=5, shots=1, queries=3)(4)
    >>> learner(tasks).shape
    torch.Size([4])
    >>> learner.adapt(tasks.support).shape                           # T, ways, C, H, W
    torch.Size([4, 5, 8, 7, 7])
    """

    def __init__(
        self,
        body: nn.Module,
        relation: nn.Module,
        ways: int,
        *,
        loss: Loss = sigmoid_mse,
        **computing: Unpack[Computing],
    ) -> None:
        super().__init__(body, ways, loss=loss, **computing)
        self.relation = relation

    def represent(self, support: Batch) -> Tensor:
        """The sum of the features of each class, `[T, ways, ...]`."""
        return sums(features_of(self.body, support.x), support.y, self.ways)

    def predict(self, adapted: Tensor, x: Inputs) -> Tensor:
        """The scores (1), `[T, M, ways]`."""
        return over_tasks(self.relation)(features_of(self.body, x), adapted)
