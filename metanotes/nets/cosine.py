"""A head that looks at directions alone: the cosine classifier.

    s_k = scale cos(z, w_k),    cos(z, w) = <z, w> / (|z| |w|)                                (1)

Neither long features nor long weights can make a score large, so that what is learned is the angle
between an example and its class. Since a cosine lies in -1..1, the scale says how sure the softmax
can become: with n classes at most 1 / (1 + (n - 1) exp(-2 scale)).

Sources: Gidaris and Komodakis, "Dynamic Few-Shot Visual Learning without Forgetting", CVPR 2018;
as the baseline of few-shot learning, Chen et al., "A Closer Look at Few-shot Classification", ICLR
2019.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanotes._ground.checks import counts, positive


class CosineHead(nn.Module):
    """The scores (1) of some classes, from features `[N, F]` to `[N, ways]`.

    It takes the place of a last linear layer: for all training classes,
    `Classifier(nn.Sequential(body, CosineHead(features, classes)))`; for the support set of a task,
    `MAML(nn.Sequential(body, CosineHead(features, ways)), inner_lr, steps, adapts="head")`. A
    learner whose head starts at zero cannot use it: zero has no direction.

    Args:
        features: F; `metanotes.nets.feature_count` tells it of most bodies.
        ways: classes.
        scale: above 0; it is not learned.

    Raises:
        ValueError: a count below 1, a scale that is not above 0.

    Source: see the module's.

    >>> head = CosineHead(features=64, ways=5)
    >>> z = torch.randn(10, 64)
    >>> head(z).shape, torch.allclose(head(7 * z), head(z), atol=1e-5)
    (torch.Size([10, 5]), True)
    """

    def __init__(self, features: int, ways: int, scale: float = 10.0) -> None:
        super().__init__()
        counts(features=features, ways=ways)
        self.scale = positive("scale", scale)
        self.weight = nn.Parameter(torch.empty(ways, features))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # as nn.Linear

    def forward(self, z: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(z, dim=-1), F.normalize(self.weight, dim=-1))

    def extra_repr(self) -> str:
        ways, features = self.weight.shape
        return f"features={features}, ways={ways}, scale={self.scale}"
