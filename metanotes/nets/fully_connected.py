"""Fully connected networks: linear layers, one after another."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import nn

from metanotes._ground.checks import counts
from metanotes._ground.randomness import seeded


def mlp(*sizes: int, seed: int = 0, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """A fully connected network with ReLUs, or others, between its layers.

    Args:
        sizes: widths from input to output; MAML's sine network is `mlp(1, 40, 40, 1)`.
        seed: of the initial weights (PyTorch's default initialisation).
        activation: makes what stands between two layers, such as `torch.nn.Sigmoid`.

    Returns:
        From `[..., sizes[0]]` to `[..., sizes[-1]]`.

    Raises:
        ValueError: fewer than two sizes, or one below 1.

    >>> import torch
    >>> mlp(1, 40, 40, 1)(torch.zeros(10, 1)).shape
    torch.Size([10, 1])
    """
    if len(sizes) < 2:
        raise ValueError(f"sizes={sizes} needs an input and an output width")
    counts(**{f"sizes[{place}]": size for place, size in enumerate(sizes)})
    layers: list[nn.Module] = []
    with seeded(seed):
        for n_in, n_out in pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), activation()]
    return nn.Sequential(*layers[:-1])


def dense4(
    ways: int | None,
    in_channels: int = 1,
    size: int = 28,
    seed: int = 0,
    *,
    running_statistics: bool = False,
) -> nn.Sequential:
    """The network without convolutions of MAML's Omniglot experiment (Finn et al. 2017, 5.2).

    Four hidden layers of 256, 128, 64 and 64 units, each a linear map, batch normalisation and a
    ReLU. Normalisation, body and head are as of `conv4`; the features are 64.

    Args:
        ways: N, the classes of a task; None leaves the head out.
        in_channels: 1 for grey images, 3 for colour.
        size: height and width of the images, in pixels.
        seed: of the initial weights (PyTorch's default initialisation).
        running_statistics: see `conv4`.

    Returns:
        From images `[N, in_channels, size, size]` to `[N, ways]`, or to features `[N, 64]`.

    Raises:
        ValueError: a count below 1.

    >>> import torch
    >>> dense4(ways=5)(torch.zeros(25, 1, 28, 28)).shape
    torch.Size([25, 5])
    """
    counts(in_channels=in_channels, size=size)
    if ways is not None:
        counts(ways=ways)
    layers: list[nn.Module] = [nn.Flatten()]
    with seeded(seed):
        for n_in, n_out in pairwise((in_channels * size * size, 256, 128, 64, 64)):
            norm = nn.BatchNorm1d(n_out, track_running_stats=running_statistics)
            layers += [nn.Linear(n_in, n_out), norm, nn.ReLU()]
        if ways is not None:
            layers.append(nn.Linear(64, ways))
    return nn.Sequential(*layers)
