"""The small networks of the chapters.

Each is made from its own seed, so that two runs start alike; the global random state is left as it
was. Any other module does as well.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn


def mlp(*sizes: int, seed: int = 0, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """A fully connected network with ReLUs, or others, between its layers.

    Args:
        sizes: widths from input to output; MAML's sine network is `mlp(1, 40, 40, 1)`.
        seed: of the initial weights (PyTorch's default initialisation).
        activation: makes what stands between two layers, such as `torch.nn.Sigmoid`.

    >>> mlp(1, 40, 40, 1)(torch.zeros(10, 1)).shape
    torch.Size([10, 1])
    """
    if len(sizes) < 2:
        raise ValueError(f"sizes={sizes} needs an input and an output width")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), activation()]
    return nn.Sequential(*layers[:-1])


def conv4(
    ways: int,
    channels: int = 64,
    in_channels: int = 1,
    size: int = 28,
    pool: str = "stride",
    seed: int = 0,
) -> nn.Sequential:
    """The four-block convolutional network of few-shot learning (Vinyals et al. 2016).

    Each block is a 3x3 convolution, batch normalisation, and a ReLU, and halves the image. The
    normalisation always takes the statistics of the batch that it is given, as in MAML's code:
    predictions then depend on what else is in the batch, see `metanotes.evaluate`.

    Args:
        ways: N, the classes of a task.
        channels: width; 64 for Omniglot, 32 for mini-ImageNet.
        in_channels: 1 for grey images, 3 for colour.
        size: height and width of the images, in pixels.
        pool: how a block halves: "stride" (MAML on Omniglot) or "max" (mini-ImageNet).
        seed: of the initial weights (PyTorch's default initialisation).

    >>> conv4(ways=5)(torch.zeros(25, 1, 28, 28)).shape
    torch.Size([25, 5])
    """
    if pool not in ("stride", "max"):
        raise ValueError(f'pool={pool!r} must be "stride" or "max"')
    stride, last = (2, -(-size // 16)) if pool == "stride" else (1, size // 16)
    if last < 1:
        raise ValueError(f"size={size} is too small for four halvings: at least 16")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for n_in in (in_channels, channels, channels, channels):
            layers += [
                nn.Conv2d(n_in, channels, 3, stride=stride, padding=1),
                nn.BatchNorm2d(channels, track_running_stats=False),
                nn.ReLU(),
            ]
            if pool == "max":
                layers.append(nn.MaxPool2d(2))
        layers += [nn.Flatten(), nn.Linear(channels * last * last, ways)]
    return nn.Sequential(*layers)


def dense4(ways: int, in_channels: int = 1, size: int = 28, seed: int = 0) -> nn.Sequential:
    """The network without convolutions of MAML's Omniglot experiment (Finn et al. 2017, 5.2).

    Four hidden layers of 256, 128, 64 and 64 units, each a linear map, batch normalisation of the
    batch's statistics as in `conv4`, and a ReLU.

    Args:
        ways: N, the classes of a task.
        in_channels: 1 for grey images, 3 for colour.
        size: height and width of the images, in pixels.
        seed: of the initial weights (PyTorch's default initialisation).

    >>> dense4(ways=5)(torch.zeros(25, 1, 28, 28)).shape
    torch.Size([25, 5])
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Flatten()]
        for n_in, n_out in pairwise((in_channels * size * size, 256, 128, 64, 64)):
            norm = nn.BatchNorm1d(n_out, track_running_stats=False)
            layers += [nn.Linear(n_in, n_out), norm, nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(64, ways))
