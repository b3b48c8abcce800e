"""The small networks of the chapters.

Each is made from its own seed, so that two runs start alike; the global random state is left as it
was. Any other module does as well.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn


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


class _Centered(nn.Module):
    """Pixels in 0..1 to -1..1."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x - 1


def conv_encoder(
    in_channels: int = 3, size: int = 28, widths: tuple[int, int] = (32, 48), seed: int = 0
) -> nn.Sequential:
    """The convolutions of DANN's digit network, as an encoder (Ganin et al. 2016, figure 4).

    Two 5x5 convolutions, each with normalisation, max-pooling and a ReLU; the code is what comes
    out, flattened. The normalisation is not in the paper: each channel of each image has mean 0
    and variance 1 (Ulyanov et al. 2016), so that brightness and contrast, which differ between
    domains, do not reach the code. It does not look at the rest of the batch.

    Args:
        in_channels: 1 for grey images, 3 for colour. Pixels are taken to be in 0..1.
        size: height and width of the images, in pixels; a multiple of 4.
        widths: channels of the two convolutions.
        seed: of the initial weights (PyTorch's default initialisation).

    >>> conv_encoder()(torch.zeros(32, 3, 28, 28)).shape            # 48 channels of 7 x 7
    torch.Size([32, 2352])
    """
    _check_quarters(size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [_Centered()]
        for n_in, n_out in pairwise((in_channels, *widths)):
            norm = nn.GroupNorm(n_out, n_out)  # a group a channel: instance normalisation
            layers += [nn.Conv2d(n_in, n_out, 5, padding=2), norm, nn.MaxPool2d(2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten())


def conv_decoder(
    out_channels: int = 3, size: int = 28, width: int = 48, seed: int = 0
) -> nn.Sequential:
    """The decoder that goes with `conv_encoder`: from codes back to images.

    Three 3x3 convolutions of 16 channels; before the second and the third the image is enlarged.

    Args:
        out_channels: 1 for grey images, 3 for colour.
        size: height and width of the images, in pixels; a multiple of 4.
        width: channels of the code, `widths[1]` of the encoder.
        seed: of the initial weights (PyTorch's default initialisation).

    >>> conv_decoder()(torch.zeros(32, 2352)).shape
    torch.Size([32, 3, 28, 28])
    """
    _check_quarters(size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Unflatten(1, (width, size // 4, size // 4)),
            *(nn.Conv2d(width, 16, 3, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2)),
            *(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2)),
            nn.Conv2d(16, out_channels, 3, padding=1),
        )


def _check_quarters(size: int) -> None:
    """Refuse a size that two halvings do not divide.

    Raises:
        ValueError: it is none.
    """
    if size < 4 or size % 4:
        raise ValueError(f"size={size} must be a multiple of 4, for two halvings")
