"""A small vision transformer: an image is a sequence of its patches (Dosovitskiy et al. 2021).

The sequence is made of the patches' pixels, through a linear layer and with learned positions; the
features are the mean over the patches, instead of what a class token comes to (the paper's
appendix D.3 finds the two alike).

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at
Scale", ICLR 2021, section 3.1.
"""

from __future__ import annotations

from torch import Tensor, nn

from metanotes._ground.checks import count, counts
from metanotes._ground.randomness import seeded
from metanotes.nets.transformer import Mean, TransformerBody


class Patches(nn.Module):
    """Images `[N, C, H, W]` to the pixels of their patches, `[N, patches, C h w]`, row by row.

    Args:
        size: H and W.
        height: h, which divides the size.
        width: w, which divides the size.
    """

    def __init__(self, size: int, height: int, width: int) -> None:
        super().__init__()
        self.size, self.height, self.width = size, height, width

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != (self.size, self.size):
            raise ValueError(
                f"x has the shape {list(x.shape)}; its images must be of size={self.size}"
            )
        x = x.unflatten(3, (-1, self.width)).unflatten(2, (-1, self.height))
        x = x.permute(0, 2, 4, 1, 3, 5)  # [N, H / h, W / w, C, h, w]
        return x.flatten(3).flatten(1, 2)

    def extra_repr(self) -> str:
        return f"size={self.size}, height={self.height}, width={self.width}"


def vit(
    ways: int | None,
    patch: int | tuple[int, int] = 7,
    in_channels: int = 1,
    size: int = 28,
    width: int = 64,
    heads: int = 4,
    layers: int = 3,
    seed: int = 0,
    *,
    feedforward: int | None = None,
    dropout: float = 0.0,
) -> nn.Sequential:
    """A small vision transformer: patches, a linear layer, a body, their mean, and a linear head.

    Unlike `conv4` and `resnet` it has no batch normalisation: what it says of an image does not
    depend on the others.

    Args:
        ways: N, the classes of a task; None leaves the head out.
        patch: height and width of a patch in pixels, or both: `(1, 28)` reads rows.
        in_channels: 1 for grey images, 3 for colour.
        size: height and width of the images, in pixels; a multiple of those of a patch.
        width, heads, layers: see `TransformerBody`.
        seed: of the initial weights (PyTorch's default initialisation; positions: 0.02 normal).
        feedforward, dropout: see `TransformerBody`.

    Returns:
        From images `[N, in_channels, size, size]` to `[N, ways]`, or to features `[N, width]`.

    Raises:
        ValueError: a size that the patches do not fill; as of `TransformerBody`.

    >>> import torch
    >>> vit(ways=5)(torch.zeros(25, 1, 28, 28)).shape                      # 16 patches
    torch.Size([25, 5])
    """
    h, w = (patch, patch) if not isinstance(patch, tuple) else patch
    counts(patch=h, in_channels=in_channels, size=size, width=width)
    if ways is not None:
        counts(ways=ways)
    if size % h or size % count("patch", w):
        raise ValueError(f"size={size} must be a multiple of patch={patch}")
    with seeded(seed):
        modules: list[nn.Module] = [
            Patches(size, h, w),
            nn.Linear(in_channels * h * w, width),
            TransformerBody(
                width,
                heads,
                layers,
                positions=(size // h) * (size // w),
                feedforward=feedforward,
                dropout=dropout,
            ),
            Mean(width),
        ]
        if ways is not None:
            modules.append(nn.Linear(width, ways))
    return nn.Sequential(*modules)
