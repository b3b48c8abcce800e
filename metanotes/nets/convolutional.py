"""Convolutional networks: of few-shot learning, and of domain adaptation on digits."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from metanotes._ground.checks import count, counts
from metanotes._ground.randomness import seeded
from metanotes.nets.features import Features


def conv4(
    ways: int | None,
    channels: int = 64,
    in_channels: int = 1,
    size: int = 28,
    pool: str = "stride",
    seed: int = 0,
    *,
    halvings: int = 4,
    running_statistics: bool = False,
) -> nn.Sequential:
    """The four-block convolutional network of few-shot learning (Vinyals et al. 2016).

    Each block is a 3x3 convolution, batch normalisation, and a ReLU, and halves the image. The
    normalisation takes the statistics of the batch that it is given, as in MAML's code:
    predictions then depend on what else is in the batch, see `metanotes.evaluate`.

    The last module is the head, those before it are the body: `model[:-1]`, or `ways=None`. The
    features are channels * ceil(size / 16)^2 with strides and channels * floor(size / 16)^2 with
    max-pooling: 256 with the default settings; see `metanotes.nets.feature_count`. Without its last
    module the body gives maps, channels x height x width.

    Args:
        ways: N, the classes of a task; None leaves the head out.
        channels: width; 64 for Omniglot, 32 for mini-ImageNet.
        in_channels: 1 for grey images, 3 for colour.
        size: height and width of the images, in pixels; at least 16 for "max" (2^halvings).
        pool: how a block halves: "stride" (MAML on Omniglot) or "max" (mini-ImageNet).
        seed: of the initial weights (PyTorch's default initialisation).
        halvings: how many of the four blocks halve the image, the first ones; relation networks
            compare larger maps, of 2.
        running_statistics: keep means of the batches' statistics in training, and use them in
            `eval()`: for an ordinary classifier, or for features that are frozen afterwards.
            Learners that descend refuse such a network unless it is in `eval()`.

    Returns:
        From images `[N, in_channels, size, size]` to `[N, ways]`, or to features `[N, F]`.

    Raises:
        ValueError: a count below 1, an unknown `pool`, halvings that are not 0 to 4, a size that
            cannot be halved so often.

    >>> import torch
    >>> conv4(ways=5)(torch.zeros(25, 1, 28, 28)).shape
    torch.Size([25, 5])
    >>> conv4(ways=None)(torch.zeros(25, 1, 28, 28)).shape
    torch.Size([25, 256])
    >>> conv4(ways=None, halvings=2)[:-1](torch.zeros(25, 1, 28, 28)).shape
    torch.Size([25, 64, 7, 7])
    """
    counts(channels=channels, in_channels=in_channels, size=size)
    if ways is not None:
        counts(ways=ways)
    if pool not in ("stride", "max"):
        raise ValueError(f'pool={pool!r} must be "stride" or "max"')
    if count("halvings", halvings, least=0) > 4:
        raise ValueError(f"halvings={halvings} asks for more than the four blocks")
    parts = 2**halvings
    last = -(-size // parts) if pool == "stride" else size // parts
    if last < 1:
        raise ValueError(f"size={size} is too small for {halvings} halvings: at least {parts}")
    layers: list[nn.Module] = []
    with seeded(seed):
        for block, n_in in enumerate((in_channels, channels, channels, channels)):
            halves = block < halvings
            stride = 2 if halves and pool == "stride" else 1
            layers += [
                nn.Conv2d(n_in, channels, 3, stride=stride, padding=1),
                nn.BatchNorm2d(channels, track_running_stats=running_statistics),
                nn.ReLU(),
            ]
            if halves and pool == "max":
                layers.append(nn.MaxPool2d(2))
        layers.append(Features(channels * last * last))
        if ways is not None:
            layers.append(nn.Linear(channels * last * last, ways))
    return nn.Sequential(*layers)


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

    Returns:
        From images `[N, in_channels, size, size]` to codes `[N, widths[1] * (size / 4)^2]`.

    Raises:
        ValueError: a size that is no multiple of 4, a count below 1.

    >>> import torch
    >>> conv_encoder()(torch.zeros(32, 3, 28, 28)).shape            # 48 channels of 7 x 7
    torch.Size([32, 2352])
    """
    _check_quarters(size)
    counts(in_channels=in_channels, **{f"widths[{place}]": n for place, n in enumerate(widths)})
    layers: list[nn.Module] = [_Centered()]
    with seeded(seed):
        for n_in, n_out in pairwise((in_channels, *widths)):
            norm = nn.GroupNorm(n_out, n_out)  # a group a channel: instance normalisation
            layers += [nn.Conv2d(n_in, n_out, 5, padding=2), norm, nn.MaxPool2d(2), nn.ReLU()]
    return nn.Sequential(*layers, Features(widths[-1] * (size // 4) ** 2))


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

    Returns:
        From codes `[N, width * (size / 4)^2]` to images `[N, out_channels, size, size]`.

    Raises:
        ValueError: as of `conv_encoder`.

    >>> import torch
    >>> conv_decoder()(torch.zeros(32, 2352)).shape
    torch.Size([32, 3, 28, 28])
    """
    _check_quarters(size)
    counts(out_channels=out_channels, width=width)
    with seeded(seed):
        return nn.Sequential(
            nn.Unflatten(1, (width, size // 4, size // 4)),
            *(nn.Conv2d(width, 16, 3, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2)),
            *(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2)),
            nn.Conv2d(16, out_channels, 3, padding=1),
        )


def _check_quarters(size: int) -> None:
    """Refuse a size that two halvings do not divide.

    Raises:
        ValueError: names the size.
    """
    if count("size", size) % 4:
        raise ValueError(f"size={size} must be a multiple of 4, for two halvings")
