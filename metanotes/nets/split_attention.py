"""Split attention: a convolution in several versions, among which each channel chooses (ResNeSt).

    U_r = leaky(n(conv_r(x_r))),    s = mean over the image of U_1 + ... + U_R                (1)
    (a_1, ..., a_R) = softmax_r(G(s)),    V = a_1 U_1 + ... + a_R U_R,    channel by channel  (2)

The channels of x are parted into R, the radix, and each part x_r gives a version U_r of all that
goes out. G is a small network of two layers with a ReLU between them, n batch normalisation. Of
R = 1 there is nothing to choose, and a_1 is a sigmoid: squeeze and excitation. With K groups (the
cardinality) all channels are first parted into K, and each group has versions and a G of its own.

Source: Zhang et al., "ResNeSt: Split-Attention Networks", CVPR Workshops 2022, section 3.1; G is
without its normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from metanotes._ground.checks import counts
from metanotes.nets.residual import normalized, stack_of

REDUCTION = 4  # how many times narrower G is than what it chooses among ...
NARROWEST = 8  # ... and the units that it has at least, for each group


class SplitAttention(nn.Module):
    """A 3x3 convolution (1) and (2), `[N, n_in, H, W]` to `[N, n_out, H, W]`.

    Its weights are drawn from the global random state, as those of any module of torch's.

    Args:
        n_in: channels that come in, a multiple of radix * groups.
        n_out: channels that go out, a multiple of the groups.
        radix: R, the versions among which a channel chooses.
        groups: K.
        running_statistics: see `metanotes.nets.conv4`.

    Raises:
        ValueError: a count below 1, channels that cannot be parted so.

    >>> import torch
    >>> SplitAttention(8, 16)(torch.zeros(10, 8, 14, 14)).shape
    torch.Size([10, 16, 14, 14])
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        radix: int = 2,
        groups: int = 1,
        *,
        running_statistics: bool = False,
    ) -> None:
        super().__init__()
        counts(n_in=n_in, n_out=n_out, radix=radix, groups=groups)
        for name, channels, parts in (("n_in", n_in, radix * groups), ("n_out", n_out, groups)):
            if channels % parts:
                raise ValueError(
                    f"{name}={channels} channels cannot be parted into {parts} (radix={radix}, "
                    f"groups={groups}): take a multiple of {parts}"
                )
        self.radix, self.groups = radix, groups
        versions = normalized(n_in, radix * n_out, 3, running_statistics, radix * groups)
        self.versions = nn.Sequential(*versions, nn.LeakyReLU(0.1))
        hidden = max(NARROWEST * groups, radix * n_out // REDUCTION // groups * groups)
        self.G = nn.Sequential(
            nn.Conv2d(n_out, hidden, 1, groups=groups),
            nn.ReLU(),
            nn.Conv2d(hidden, radix * n_out, 1, groups=groups),
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = (self.groups, self.radix, -1)
        U = self.versions(x).unflatten(1, parts)  # [N, K, R, n_out / K, H, W]
        s = U.sum(2).mean((3, 4), keepdim=True).flatten(1, 2)  # (1): [N, n_out, 1, 1]
        scores = self.G(s).unflatten(1, parts)
        a = scores.softmax(2) if self.radix > 1 else scores.sigmoid()
        return (a * U).sum(2).flatten(1, 2)

    def extra_repr(self) -> str:
        return f"radix={self.radix}, groups={self.groups}"


class SplitAttentionBlock(nn.Module):
    """A residual block whose second convolution is split attention, and which halves the image.

        x  <-  pool(leaky(split_attention(leaky(n(conv(x)))) + W x))

    Args:
        n_in: channels that come in.
        n_out: channels of the block, a multiple of radix * groups.
        radix, groups: see `SplitAttention`.
        running_statistics: see `metanotes.nets.conv4`.
    """

    def __init__(
        self, n_in: int, n_out: int, radix: int, groups: int, *, running_statistics: bool
    ) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *normalized(n_in, n_out, 3, running_statistics),
            nn.LeakyReLU(0.1),
            SplitAttention(n_out, n_out, radix, groups, running_statistics=running_statistics),
        )
        self.shortcut = nn.Sequential(*normalized(n_in, n_out, 1, running_statistics))

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.leaky_relu(self.branch(x) + self.shortcut(x), 0.1), 2)


def resnest(
    ways: int | None,
    widths: Sequence[int] = (16, 32, 64),
    in_channels: int = 1,
    size: int = 28,
    radix: int = 2,
    groups: int = 1,
    seed: int = 0,
    *,
    running_statistics: bool = False,
) -> nn.Sequential:
    """A small residual network with split attention in each block; else as `resnet`.

    Args:
        ways: N, the classes of a task; None leaves the head out.
        widths: channels of each block, multiples of radix * groups.
        in_channels: 1 for grey images, 3 for colour.
        size: height and width of the images, in pixels; at least 2 for each block.
        radix: versions of the second convolution, among which each channel chooses.
        groups: into which its channels are parted.
        seed: of the initial weights (PyTorch's default initialisation).
        running_statistics: see `metanotes.nets.conv4`.

    Returns:
        From images `[N, in_channels, size, size]` to `[N, ways]`, or to features
        `[N, widths[-1]]`.

    Raises:
        ValueError: as of `resnet` and `SplitAttention`.

    >>> import torch
    >>> model = resnest(ways=5)
    >>> model(torch.zeros(25, 1, 28, 28)).shape
    torch.Size([25, 5])
    >>> model[:-1](torch.zeros(25, 1, 28, 28)).shape
    torch.Size([25, 64])
    """

    def block(n_in: int, n_out: int) -> nn.Module:
        return SplitAttentionBlock(
            n_in, n_out, radix, groups, running_statistics=running_statistics
        )

    return stack_of(block, ways, widths, in_channels, size, seed)
