"""Logistic regression on the features of a support set, solved to the end in every task.

    min over W, b:   sum_i cross_entropy(W z_i + b, y_i) + penalty/2 |W|^2,    z = body(x)/|body(x)|

At the minimum W is a sum of support features, W_k = sum_i a_ik z_i with sum_i a_ik = 0, so that a
query is compared with each of them:

    s_k(x) = sum_i a_ik <z_i, z> + b_k                                                        (1)

The loss is convex, and the second derivative of cross entropy is nowhere above 1/2. A parabola with
that curvature, laid through the present scores S `[N, ways]`, lies above it; its minimum is a ridge
regression of working targets, and another step towards the minimum (Boehning 1992). With the
labels Y as ones and zeros, P = softmax(S) and the inner products K = Z Z^T,

    R = S + 2 (Y - P)                                                                         (2)
    2 penalty A + K A + 1 b^T = R,    1^T A = 0                                               (3)
    S = K A + 1 b^T = R - 2 penalty A                                                         (4)

The matrix of (3) is the same in all steps. No step raises the loss, whatever the data; its
derivative is that of the steps, plainly, and comes as near to that of the minimum as they do.

Sources: a logistic regression of fixed features as a strong baseline, Chen et al., "A Closer Look
at Few-shot Classification", ICLR 2019, and Tian et al., "Rethinking Few-shot Image Classification:
a Good Embedding Is All You Need?", ECCV 2020; a convex learner inside, and the body learned through
it: Lee et al., "Meta-Learning with Differentiable Convex Optimization", CVPR 2019.
"""

from __future__ import annotations

from typing import NamedTuple, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanotes._ground.checks import count, positive
from metanotes.engine import Computing
from metanotes.learner import Loss, cross_entropy
from metanotes.methods.comparison.features import (
    Comparing,
    check_support,
    features_of,
    is_class,
)
from metanotes.task import Batch, Inputs


class Weighted(NamedTuple):
    """What `LogisticNetwork` keeps: features z `[T, N, F]`, a `[T, N, ways]` and b `[T, 1, ways]`.

    >>> support = Batch(torch.rand(3, 4, 6), torch.tensor([[0, 0, 1, 1]] * 3))
    >>> z, a, b = LogisticNetwork(nn.Flatten(), ways=2).adapt(support)
    >>> W = a.mT @ z                                      # [T, ways, F], as torch.nn.Linear has it
    >>> bool((a.sum(1).abs() < 1e-5).all())
    True
    """

    z: Tensor
    a: Tensor
    b: Tensor


class LogisticNetwork(Comparing):
    """Answers with a logistic regression of the support set; phi is the body.

    On a frozen body it is the strong baseline of few-shot learning; trained, the body is learned
    for the sake of this classifier. As with prototypes, no number of classes is a part of phi.

    On the map:
        phi: a body
        adapts: a linear classifier of the features, solved to the end
        outer loss: of the query set, through the solution
        needs: first derivatives; an example of each class

    Args:
        body: any module from `[N, ...]` to features `[N, ...]`, which are brought to length 1.
        ways: classes of a task, at least 2.
        penalty: of `|W|^2 / 2`, beside a sum over the examples; above 0. scikit-learn's C is its
            inverse.
        steps: of (2) to (4); `adapt` and `evaluate` may take other numbers. The smaller the
            penalty, the more it takes.
        loss: of the queries.
        keep_graph, checkpoint, record, compile, group: see `metanotes.engine.Options`.

    Raises:
        ValueError: fewer than 2 ways, a penalty that is not above 0; in use, labels outside the
            ways or a class without an example.

    Source: see the module's.

    >>> from metanotes import LogisticNetwork
    >>> from metanotes.data import episodes, glyphs
    >>> from metanotes.nets import conv4
    >>> learner = LogisticNetwork(conv4(ways=None), ways=5)
    >>> learner(episodes(glyphs("background"), ways=5, shots=5, queries=3)(4)).shape
    torch.Size([4])
    """

    takes_steps = True

    def __init__(
        self,
        body: nn.Module,
        ways: int,
        *,
        penalty: float = 1.0,
        steps: int = 100,
        loss: Loss = cross_entropy,
        **computing: Unpack[Computing],
    ) -> None:
        super().__init__(body, ways, loss=loss, **computing)
        self.penalty, self.steps = positive("penalty", penalty), count("steps", steps, least=0)

    def features(self, x: Inputs) -> Tensor:
        """z: `[T, N, ...]` to `[T, N, F]`, of length 1."""
        return F.normalize(features_of(self.body, x).flatten(2), dim=2)

    def adapt(self, support: Batch, steps: int | None = None) -> Weighted:
        """The regression after `steps` (default: the learner's) steps from scores of 0.

        Raises:
            ValueError: labels outside the ways, or a class without an example.
        """
        check_support(support.y, self.ways)
        return self.represent(support, steps)

    def represent(self, support: Batch, steps: int | None = None) -> Weighted:
        """`adapt`, of labels that have been checked."""
        steps = count("steps", self.steps if steps is None else steps, least=0)
        z = self.features(support.x)
        Y = is_class(support.y, self.ways).mT.to(z)  # [T, N, ways]
        T, N, _ = z.shape
        matrix = z.new_zeros(T, N + 1, N + 1)  # of (3)
        matrix[:, :N, :N] = z @ z.mT + 2 * self.penalty * torch.eye(N).to(z)
        matrix[:, N, :N] = matrix[:, :N, N] = 1
        solve = torch.linalg.inv(matrix)[:, :, :N]  # [T, N + 1, N]
        S = A = torch.zeros_like(Y)
        b = Y.new_zeros(T, 1, self.ways)
        for _ in range(steps):
            R = S + 2 * (Y - S.softmax(2))
            A, b = (solve @ R).split([N, 1], 1)
            S = R - 2 * self.penalty * A
        return Weighted(z, A, b)

    def predict(self, adapted: Weighted, x: Inputs) -> Tensor:
        """The scores (1), `[T, M, ways]`."""
        z, a, b = adapted
        return self.features(x) @ z.mT @ a + b

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, penalty={self.penalty}, steps={self.steps}"
