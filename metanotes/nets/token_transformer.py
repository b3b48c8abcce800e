"""Transformers on tokens: an embedding, a body, and what the sequence comes to as a whole.

Padding is a token of its own, so that a mask need not travel beside the tokens. What a sequence
comes to is the mean over its places, or over those that hold one token, such as [CLS] or [MASK].

Source: Devlin, Chang, Lee and Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for
Language Understanding", NAACL 2019; here smaller, and with the normalisation first.
"""

from __future__ import annotations

from torch import Tensor, nn

from metanotes._ground.checks import count, counts
from metanotes._ground.randomness import seeded
from metanotes.nets.transformer import Mean, TransformerBody


class TokenBody(nn.Module):
    """Tokens `[N, L]` to what each comes to, `[N, L, width]`, or each sequence, `[N, width]`.

    Its weights are drawn from the global random state, as those of any module of torch's; the
    embedding, `embedding.weight` `[vocabulary, width]`, with standard deviation 0.02. A model that
    names tokens may use it a second time: `F.linear(body(x), body.embedding.weight)`.

    Args:
        vocabulary: how many tokens there are; a token is a number in 0..vocabulary - 1.
        width, heads, layers: see `TransformerBody`.
        positions: the longest sequence L.
        pool: "mean", over the tokens that are no padding; a token, for the mean over the places
            that hold it (a sequence without it comes to 0); None for every place.
        padding: the token that fills up a sequence; None if there is none.
        causal, feedforward, dropout: see `TransformerBody`.

    Raises:
        ValueError: as of `TransformerBody`; a token outside the vocabulary; another `pool`.

    >>> import torch
    >>> body = TokenBody(vocabulary=100, width=32, heads=4, layers=2, positions=16, pool="mean")
    >>> body(torch.tensor([[5, 6, 7], [8, 0, 0]])).shape              # 0 fills up
    torch.Size([2, 32])
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        heads: int,
        layers: int,
        positions: int,
        *,
        pool: str | int | None = None,
        padding: int | None = 0,
        causal: bool = False,
        feedforward: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        counts(vocabulary=vocabulary, width=width, positions=positions)
        if isinstance(pool, str) and pool != "mean":
            raise ValueError(f'pool={pool!r} must be "mean", a token, or None')
        for name, token in {"padding": padding, "pool": pool}.items():
            if isinstance(token, int) and count(name, token, least=0) >= vocabulary:
                raise ValueError(f"{name}={token} must be a token below vocabulary={vocabulary}")
        self.features = width
        self.padding, self.pool = padding, pool
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.body = TransformerBody(
            width,
            heads,
            layers,
            causal=causal,
            positions=positions,
            feedforward=feedforward,
            dropout=dropout,
        )
        self.mean = Mean(width)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """What the tokens, or the sequences, come to.

        Args:
            input_ids: `[N, L]`, whole numbers.
            attention_mask: `[N, L]`, true (or 1) at tokens and false (or 0) at padding; None: all
                but the token `padding`.

        Returns:
            `[N, L, width]`, or `[N, width]` with a `pool`.

        Raises:
            ValueError: tokens of another shape or type, outside the vocabulary, or longer than
                `positions`.
        """
        if input_ids.ndim != 2 or input_ids.is_floating_point():
            raise ValueError(
                f"input_ids has the shape {list(input_ids.shape)} and is of {input_ids.dtype}; it "
                "must be tokens [N, L], whole numbers"
            )
        if attention_mask is None and self.padding is not None:
            attention_mask = input_ids != self.padding
        z = self.body(self._embedded(input_ids), attention_mask)
        if self.pool is None:
            return z
        return self.mean(z, attention_mask if self.pool == "mean" else input_ids == self.pool)

    def _embedded(self, input_ids: Tensor) -> Tensor:
        """The tokens' vectors, `[N, L, width]`."""
        try:
            z: Tensor = self.embedding(input_ids)
        except IndexError as error:
            raise ValueError(
                f"input_ids has a token outside 0..{self.embedding.num_embeddings - 1}: the "
                "sentences were encoded with another vocabulary than this model's"
            ) from error
        return z

    def extra_repr(self) -> str:
        return f"pool={self.pool!r}, padding={self.padding}"


def token_transformer(
    ways: int | None,
    vocabulary: int,
    positions: int,
    width: int = 128,
    heads: int = 4,
    layers: int = 3,
    seed: int = 0,
    *,
    pool: str | int | None = "mean",
    padding: int | None = 0,
    causal: bool = False,
    feedforward: int | None = None,
    dropout: float = 0.0,
) -> nn.Sequential:
    """A classifier of sequences of tokens, or with `pool=None` of each token.

    Args:
        ways: N, the classes of a task; None leaves the head out.
        vocabulary, positions, width, heads, layers: see `TokenBody`.
        seed: of the initial weights (PyTorch's default initialisation; embeddings: 0.02 normal).
        pool, padding, causal, feedforward, dropout: see `TokenBody`.

    Returns:
        From tokens `[N, L]` to `[N, ways]`, or with `pool=None` to `[N, L, ways]`; to `width`
        features without a head.

    Raises:
        ValueError: as of `TokenBody`.

    >>> import torch
    >>> model = token_transformer(ways=5, vocabulary=6000, positions=16)
    >>> model(torch.ones(25, 12, dtype=torch.long)).shape
    torch.Size([25, 5])
    """
    if ways is not None:
        counts(ways=ways)
    with seeded(seed):
        body = TokenBody(
            vocabulary,
            width,
            heads,
            layers,
            positions,
            pool=pool,
            padding=padding,
            causal=causal,
            feedforward=feedforward,
            dropout=dropout,
        )
        head = [] if ways is None else [nn.Linear(width, ways)]
    return nn.Sequential(body, *head)
