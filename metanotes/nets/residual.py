"""The residual network of few-shot learning, ResNet-12, and small ones of its kind.

    x  <-  pool(leaky(h(x) + W x)),    leaky(a) = max(a, 0.1 a)                               (1)

h is a few 3x3 convolutions, each followed by batch normalisation and all but the last by the leaky
ReLU; W is a 1x1 convolution, normalised too. A block (1) halves the image, and the features are the
means of the last block's channels.

Sources: He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016; in the
form of Lee, Maji, Ravichandran and Soatto, "Meta-Learning with Differentiable Convex Optimization",
CVPR 2019, without its DropBlock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from metanotes._ground.checks import counts
from metanotes._ground.randomness import seeded


class ResidualBlock(nn.Module):
    """Block (1), from images `[N, n_in, H, W]` to `[N, n_out, H / 2, W / 2]`, rounded down.

    Its weights are drawn from the global random state, as those of any module of torch's.

    Args:
        n_in: channels that come in.
        n_out: channels of the block.
        convolutions: how many 3x3 convolutions h has.
        running_statistics: see `metanotes.nets.conv4`.

    >>> import torch
    >>> ResidualBlock(3, 16)(torch.zeros(10, 3, 28, 28)).shape
    torch.Size([10, 16, 14, 14])
    """

    def __init__(
        self, n_in: int, n_out: int, convolutions: int = 3, *, running_statistics: bool = False
    ) -> None:
        super().__init__()
        counts(n_in=n_in, n_out=n_out, convolutions=convolutions)
        layers = normalized(n_in, n_out, 3, running_statistics)
        for _ in range(convolutions - 1):
            layers += [nn.LeakyReLU(0.1), *normalized(n_out, n_out, 3, running_statistics)]
        self.branch = nn.Sequential(*layers)
        self.shortcut = nn.Sequential(*normalized(n_in, n_out, 1, running_statistics))

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.leaky_relu(self.branch(x) + self.shortcut(x), 0.1), 2)


def normalized(
    n_in: int, n_out: int, kernel: int, running_statistics: bool, groups: int = 1
) -> list[nn.Module]:
    """A convolution that keeps the size of the image, and batch normalisation."""
    convolution = nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(n_out, track_running_stats=running_statistics)]


class ImageMean(nn.Module):
    """The mean over an image, `[N, C, H, W]` to features `[N, C]`.

    torch's pooling to one pixel gives the same, but has no rule for vmap with the channels last.

    Args:
        features: their number C.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))

    def extra_repr(self) -> str:
        return f"features={self.features}"


def resnet(
    ways: int | None,
    widths: Sequence[int] = (64, 160, 320, 640),
    in_channels: int = 1,
    size: int = 28,
    convolutions: int = 3,
    seed: int = 0,
    *,
    running_statistics: bool = False,
) -> nn.Sequential:
    """A residual network: a block for each width, the mean over the image, and a linear head.

    The default is ResNet-12 (four blocks of three convolutions), of 12.4 million weights. With
    `widths=(16, 32, 64), convolutions=2` it has 75 thousand. Body, head and normalisation are as
    of `metanotes.nets.conv4`; the features are as many as the last block's channels.

    Args:
        ways: N, the classes of a task; None leaves the head out.
        widths: channels of each block. Mini-ImageNet's ResNet-12 has the default ones.
        in_channels: 1 for grey images, 3 for colour.
        size: height and width of the images, in pixels; at least 2 for each block. (Any size does
            that can be halved as often; it does not change the weights.)
        convolutions: 3x3 convolutions in a block.
        seed: of the initial weights (PyTorch's default initialisation).
        running_statistics: see `metanotes.nets.conv4`.

    Returns:
        From images `[N, in_channels, size, size]` to `[N, ways]`, or to features
        `[N, widths[-1]]`.

    Raises:
        ValueError: a count below 1, no widths, a size that cannot be halved once a block.

    >>> import torch
    >>> model = resnet(ways=5, widths=(16, 32, 64), convolutions=2)
    >>> model(torch.zeros(25, 1, 28, 28)).shape
    torch.Size([25, 5])
    >>> model[:-1](torch.zeros(25, 1, 28, 28)).shape
    torch.Size([25, 64])
    """
    counts(convolutions=convolutions)

    def block(n_in: int, n_out: int) -> nn.Module:
        return ResidualBlock(n_in, n_out, convolutions, running_statistics=running_statistics)

    return stack_of(block, ways, widths, in_channels, size, seed)


def stack_of(
    block: Callable[[int, int], nn.Module],
    ways: int | None,
    widths: Sequence[int],
    in_channels: int,
    size: int,
    seed: int,
) -> nn.Sequential:
    """Blocks that halve the image, the mean over it, and a linear head; see `resnet`.

    Args:
        block: makes a block of the channels that come in and its own.
        ways, widths, in_channels, size, seed: see `resnet`.

    Raises:
        ValueError: a count below 1, no widths, a size that cannot be halved once a block.
    """
    counts(in_channels=in_channels, size=size)
    counts(**{f"widths[{place}]": width for place, width in enumerate(widths)})
    if not widths:
        raise ValueError(f"widths={widths} needs the channels of a block, or of several")
    if size < 2 ** len(widths):
        raise ValueError(
            f"size={size} is too small for the halvings of {len(widths)} blocks: at least "
            f"{2 ** len(widths)}, or fewer widths than {tuple(widths)}"
        )
    if ways is not None:
        counts(ways=ways)
    with seeded(seed):
        layers = [block(n_in, n_out) for n_in, n_out in pairwise((in_channels, *widths))]
        layers.append(ImageMean(widths[-1]))
        if ways is not None:
            layers.append(nn.Linear(widths[-1], ways))
    return nn.Sequential(*layers)
