"""Small transformers: bodies that map sequences to sequences (Vaswani et al. 2017).

    x  <-  x + attention(n(x)),    x  <-  x + mlp(n(x))                                       (1)

A layer (1) first lets each place look at the others and then works on each by itself. n is layer
normalisation, before each of the two rather than after it (Xiong et al. 2020), and once more at the
end. A decoder's layers look at a second sequence in between: x <- x + attention(n(x), source).

`TransformerBody` is the brick, with weights from the global random state as those of any module of
torch's; `transformer` makes a whole network of it, from a seed. Nothing in it keeps `torch.func`
from going through, in `train()` or `eval()`, and all of it has second derivatives.

Sources: Vaswani et al., "Attention Is All You Need", NeurIPS 2017; Xiong et al., "On Layer
Normalization in the Transformer Architecture", ICML 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanotes._ground.checks import count, counts, fraction
from metanotes._ground.randomness import seeded
from metanotes.nets.attention import Attention, hidden_places


class Normalization(nn.LayerNorm):
    """Layer normalisation n, with its weights outside of torch's function.

    With them inside, torch 2.13's second derivative of `vmap(grad(...))` is silently off by a few
    per cent.
    """

    def forward(self, x: Tensor) -> Tensor:
        plain = F.layer_norm(x, self.normalized_shape, eps=self.eps)
        return torch.addcmul(self.bias, plain, self.weight)


class TransformerLayer(nn.Module):
    """One layer (1); the arguments are those of `TransformerBody`."""

    def __init__(
        self, width: int, heads: int, feedforward: int, dropout: float, cross: bool
    ) -> None:
        super().__init__()
        self.norm, self.attention = Normalization(width), Attention(width, heads)
        self.drop = dropout_layer(dropout)
        if cross:
            self.cross_norm, self.cross_attention = Normalization(width), Attention(width, heads)
            self.cross_drop = dropout_layer(dropout)
        self.mlp = nn.Sequential(
            Normalization(width),
            nn.Linear(width, feedforward),
            nn.GELU(),
            nn.Linear(feedforward, width),
            dropout_layer(dropout),
        )

    def forward(
        self,
        x: Tensor,
        hidden: Tensor | None,
        source: Tensor | None,
        source_hidden: Tensor | None,
    ) -> Tensor:
        z = self.norm(x)
        x = x + self.drop(self.attention(z, z, hidden))
        if source is not None:
            z = self.cross_attention(self.cross_norm(x), source, source_hidden)
            x = x + self.cross_drop(z)
        return x + self.mlp(x)


class TransformerBody(nn.Module):
    """Layers (1), one after another, from `[N, L, width]` to `[N, L, width]`.

    Args:
        width: numbers at a place, a multiple of `heads`.
        heads: of the attention.
        layers: how many.
        causal: whether a place sees only itself and the places before it.
        positions: the longest L. A vector for each position is learned and added to the input;
            None knows no order, and takes sequences of any length.
        feedforward: hidden units of the mlp; None is 4 width.
        dropout: share of what is left out in training of what each half of a layer adds, and of
            the input; in [0, 1).
        cross: whether the layers also look at a second sequence, as a decoder's do.

    Raises:
        ValueError: a count below 1, a width that is no multiple of the heads, dropout out of range.

    Source: see the module's.

    >>> body = TransformerBody(width=64, heads=4, layers=2, causal=True)
    >>> body(torch.zeros(8, 50, 64)).shape
    torch.Size([8, 50, 64])
    """

    def __init__(
        self,
        width: int,
        heads: int,
        layers: int,
        *,
        causal: bool = False,
        positions: int | None = None,
        feedforward: int | None = None,
        dropout: float = 0.0,
        cross: bool = False,
    ) -> None:
        super().__init__()
        counts(width=width, heads=heads, layers=layers)
        feedforward = 4 * width if feedforward is None else count("feedforward", feedforward)
        self.features = width
        self.causal, self.cross = causal, cross
        self.positions = None
        if positions is not None:
            self.positions = nn.Parameter(torch.empty(count("positions", positions), width))
            nn.init.normal_(self.positions, std=0.02)
        self.drop = dropout_layer(dropout)
        self.layers = nn.ModuleList(
            TransformerLayer(width, heads, feedforward, dropout, cross) for _ in range(layers)
        )
        self.norm = Normalization(width)

    def forward(
        self,
        x: Tensor,
        attention_mask: Tensor | None = None,
        visible: Tensor | None = None,
        source: Tensor | None = None,
        source_mask: Tensor | None = None,
    ) -> Tensor:
        """What the last layer makes of each place.

        Args:
            x: `[N, L, width]`.
            attention_mask: `[N, L]`, true (or 1) at a place that is there and false (or 0) at
                padding, which no place sees. What comes out at padding means nothing.
            visible: `[L, L]` or `[N, L, L]`, true where a place (row) may see another (column);
                with `causal` and `attention_mask`, all have to allow it.
            source: for `cross=True`, the second sequence, `[N, S, width]`.
            source_mask: `[N, S]`, its `attention_mask`.

        Returns:
            `[N, L, width]`.

        Raises:
            ValueError: x has another width or is longer than the positions; a mask of another
                shape, or of fractions; a source is missing, or is not used.
        """
        self._check("x", x)
        hidden = hidden_places(x, x, attention_mask, visible, self.causal)
        source_hidden = None
        if (source is not None) != self.cross:
            raise ValueError(
                f"source={'None' if source is None else list(source.shape)}: a body with "
                f"cross={self.cross} takes {'a second sequence' if self.cross else 'none'}"
            )
        if source is not None:
            self._check("source", source)
            source_hidden = hidden_places(x, source, source_mask)
        if self.positions is not None:
            if x.shape[1] > len(self.positions):
                raise ValueError(
                    f"x has {x.shape[1]} places, more than positions={len(self.positions)}: cut "
                    "it, or build the body with as many positions"
                )
            x = x + self.positions[: x.shape[1]]
        x = self.drop(x)
        for layer in self.layers:
            x = layer(x, hidden, source, source_hidden)
        return self.norm(x)

    def _check(self, name: str, x: Tensor) -> None:
        if x.ndim != 3 or x.shape[2] != self.features:
            raise ValueError(
                f"{name} has the shape {list(x.shape)}; it must have [N, places, {self.features}]"
            )

    def extra_repr(self) -> str:
        positions = None if self.positions is None else len(self.positions)
        return f"causal={self.causal}, positions={positions}, cross={self.cross}"


class Mean(nn.Module):
    """The mean over the places of a sequence: `[N, L, width]` to `[N, width]`.

    Args:
        features: the width.

    >>> Mean(64)(torch.zeros(8, 10, 64)).shape
    torch.Size([8, 64])
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor, at: Tensor | None = None) -> Tensor:
        """The mean, of the places at which `at`, `[N, L]`, is true (or 1); 0 if it is nowhere."""
        if at is None:
            return x.mean(1)
        weights = at.bool().to(x.dtype)[:, None]  # [N, 1, L]
        return ((weights @ x) / weights.sum(2, keepdim=True).clamp(min=1)).squeeze(1)


def transformer(
    inputs: int,
    outputs: int | None = None,
    width: int = 64,
    heads: int = 4,
    layers: int = 3,
    seed: int = 0,
    *,
    mean: bool = False,
    causal: bool = False,
    positions: int | None = None,
    feedforward: int | None = None,
    dropout: float = 0.0,
) -> nn.Sequential:
    """A transformer on sequences of real vectors: a linear layer, a body, and a linear head.

    Without `positions` it knows no order: the sequence is a set, or with `causal=True` a past that
    each place looks back on. For masks of another form, such as queries that see a support set,
    take `TransformerBody` itself.

    Args:
        inputs: numbers of a vector.
        outputs: of the head; None leaves it out.
        width, heads, layers: see `TransformerBody`.
        seed: of the initial weights (PyTorch's default initialisation; positions: 0.02 normal).
        mean: whether the head stands on the mean over the places, one output a sequence.
        causal, positions, feedforward, dropout: see `TransformerBody`.

    Returns:
        From `[N, L, inputs]` to `[N, L, outputs]`, or to `[N, outputs]` with `mean=True`; to
        `width` numbers without a head.

    Raises:
        ValueError: as of `TransformerBody`.

    >>> model = transformer(inputs=3, outputs=1, causal=True)
    >>> model(torch.zeros(8, 20, 3)).shape
    torch.Size([8, 20, 1])
    """
    counts(inputs=inputs, width=width)
    if outputs is not None:
        counts(outputs=outputs)
    with seeded(seed):
        modules: list[nn.Module] = [
            nn.Linear(inputs, width),
            TransformerBody(
                width,
                heads,
                layers,
                causal=causal,
                positions=positions,
                feedforward=feedforward,
                dropout=dropout,
            ),
        ]
        if mean:
            modules.append(Mean(width))
        if outputs is not None:
            modules.append(nn.Linear(width, outputs))
    return nn.Sequential(*modules)


def dropout_layer(share: float) -> nn.Module:
    """Dropout, or nothing at 0: `vmap` stops at a layer that could draw, even if it does not."""
    return nn.Dropout(share) if fraction("dropout", share) else nn.Identity()
