"""How many features a body gives: for heads that are made to fit, without a forward pass."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

# What as many features leave as come in, whatever their number.
ELEMENTWISE = (
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Dropout, nn.Identity),
)


class Features(nn.Flatten):
    """The end of an image body: maps `[N, C, H, W]` flattened to features `[N, F]`.

    Args:
        features: their number F, C H W.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def extra_repr(self) -> str:
        return f"features={self.features}"


def feature_count(body: nn.Module) -> int:
    """The number F of features that a body gives, `[N, ...]` to `[N, ..., F]`.

    It is read off the last layer that knows: one with an attribute `features` (the ends of this
    room's bodies), a linear or a normalisation layer. Activations and dropout may follow it.

    Args:
        body: a network of this room without its head, or an `nn.Sequential` that ends alike.

    Raises:
        ValueError: the last layer does not tell.

    >>> from metanotes.nets import conv4
    >>> body = conv4(ways=None, channels=32)
    >>> feature_count(body)
    128
    >>> model = nn.Sequential(body, nn.Linear(feature_count(body), 20))
    """
    for layer in _from_the_last(body):
        match layer:
            case nn.Linear():
                return layer.out_features
            case nn.LayerNorm():
                return int(layer.normalized_shape[-1])
            case nn.BatchNorm1d():
                return layer.num_features
        if isinstance(features := getattr(layer, "features", None), int):
            return features
        if not isinstance(layer, ELEMENTWISE):
            break
    raise ValueError(
        f"body={type(body).__name__} ends in {type(layer).__name__}, which does not tell how many "
        "features it gives: see the shape of body(x) for a few examples x"
    )


def _from_the_last(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of an `nn.Sequential`, however nested, the last first."""
    if isinstance(module, nn.Sequential) and len(module):
        for layer in reversed(module):
            yield from _from_the_last(layer)
    else:
        yield module
