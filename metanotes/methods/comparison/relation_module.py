"""A learned comparison of two examples (Sung et al. 2018): the network g of a `RelationNetwork`.

    g([a; b]) = score(W [a; b]) = score(W_a a + W_b b)                                         (1)

[a; b] are two feature maps, one on the other. The first layer W is linear, a convolution or a
matrix, so that it works on every a and every b once, and only their sums are made pair by pair.
"""

from __future__ import annotations

from torch import Tensor, nn

from metanotes._ground.checks import counts
from metanotes._ground.randomness import seeded


class RelationModule(nn.Module):
    """g of (1) on every pair; see `map_relation` and `feature_relation` for two that are ready.

    Args:
        of_query: W_a, from features `[M, ...]` of queries to `[M, ...]`.
        of_class: W_b, alike; it needs no bias of its own.
        score: from sums `[P, ...]` to a number each, `[P, 1]`.

    >>> g = RelationModule(nn.Linear(4, 8), nn.Linear(4, 8, bias=False), nn.Linear(8, 1))
    >>> import torch
    >>> g(torch.rand(15, 4), torch.rand(5, 4)).shape
    torch.Size([15, 5])
    """

    def __init__(self, of_query: nn.Module, of_class: nn.Module, score: nn.Module) -> None:
        super().__init__()
        self.of_query, self.of_class, self.score = of_query, of_class, score

    def forward(self, queries: Tensor, classes: Tensor) -> Tensor:
        """Features of queries `[M, ...]` and of classes `[K, ...]` to scores `[M, K]`."""
        pairs = self.of_query(queries)[:, None] + self.of_class(classes)[None]  # [M, K, ...]
        return self.score(pairs.flatten(0, 1)).view(pairs.shape[:2])


def map_relation(
    channels: int = 64, size: int = 7, hidden: int = 8, seed: int = 0
) -> RelationModule:
    """The paper's relation module: two convolutional blocks and two linear layers.

    Each block is a 3x3 convolution of stride 2, batch normalisation of the pairs and a ReLU. (The
    paper has max-pooling for the stride.)

    Args:
        channels: of a feature map, and of the blocks.
        size: height and width of a feature map; 7 for `conv4(None, halvings=2)[:-1]`.
        hidden: units between the linear layers.
        seed: of the initial weights (PyTorch's default initialisation).

    Raises:
        ValueError: a count below 1.

    >>> import torch
    >>> map_relation()(torch.rand(15, 64, 7, 7), torch.rand(5, 64, 7, 7)).shape
    torch.Size([15, 5])
    """
    counts(channels=channels, size=size, hidden=hidden)
    last = -(-size // 4)
    with seeded(seed):
        of_query, of_class, second = (
            nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=bias)
            for bias in (True, False, True)
        )
        score = nn.Sequential(
            *(_normalization(channels), nn.ReLU(), second, _normalization(channels), nn.ReLU()),
            nn.Flatten(),
            *(nn.Linear(channels * last * last, hidden), nn.ReLU(), nn.Linear(hidden, 1)),
        )
    return RelationModule(of_query, of_class, score)


def _normalization(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, track_running_stats=False)


def feature_relation(features: int, hidden: int = 128, seed: int = 0) -> RelationModule:
    """A relation module for features without height and width: three linear layers with ReLUs.

    Args:
        features: F, how many the body gives; see `metanotes.nets.feature_count`.
        hidden: units of the layers between.
        seed: of the initial weights (PyTorch's default initialisation).

    Raises:
        ValueError: a count below 1.

    >>> import torch
    >>> feature_relation(256)(torch.rand(15, 256), torch.rand(5, 256)).shape
    torch.Size([15, 5])
    """
    counts(features=features, hidden=hidden)
    with seeded(seed):
        return RelationModule(
            nn.Linear(features, hidden),
            nn.Linear(features, hidden, bias=False),
            nn.Sequential(*(nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()), nn.Linear(hidden, 1)),
        )
