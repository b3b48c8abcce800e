"""A translator: a transformer that reads one sentence and writes another (Vaswani et al. 2017).

    m = encoder(source),    p(t_{i+1} | t_1 .. t_i, source) = softmax(E decoder(t_1 .. t_i, m))

The rows of E, `[vocabulary, width]`, stand for the words both where the decoder reads them and
where it names the next (Press and Wolf 2017). The encoder, with the embedding of the words that it
reads, is a module of its own, so that it can adapt alone: `adapts="encoder"`.

Sources: Vaswani et al., "Attention Is All You Need", NeurIPS 2017; Press and Wolf, "Using the
Output Embedding to Improve Language Models", EACL 2017.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from metanotes._ground.checks import counts
from metanotes._ground.randomness import seeded
from metanotes.nets.token_transformer import TokenBody
from metanotes.nets.transformer import TransformerBody


class Translator(nn.Module):
    """From source tokens and the target so far to the scores of the next token at each place.

    Token 0 fills up a row in both languages; no place sees it.

    Args:
        source_vocabulary: tokens of the languages that are read.
        vocabulary: tokens of the language that is written.
        width, heads, layers: of encoder and decoder alike, see `TransformerBody`.
        positions: the longest sentence, of both.
        seed: of the initial weights.
        feedforward, dropout: see `TransformerBody`.
        vocabularies: digests of the two vocabularies, which `check_vocabularies` compares.

    Raises:
        ValueError: as of `TransformerBody`.

    >>> model = Translator(source_vocabulary=50, vocabulary=30, width=32, heads=4, layers=1)
    >>> import torch
    >>> source, target = torch.tensor([[7, 8, 9], [7, 0, 0]]), torch.tensor([[1, 5], [1, 6]])
    >>> model(source, target).shape
    torch.Size([2, 2, 30])
    """

    def __init__(
        self,
        source_vocabulary: int,
        vocabulary: int,
        width: int = 128,
        heads: int = 4,
        layers: int = 2,
        positions: int = 32,
        seed: int = 0,
        *,
        feedforward: int | None = None,
        dropout: float = 0.0,
        vocabularies: tuple[str, str] | None = None,
    ) -> None:
        super().__init__()
        counts(source_vocabulary=source_vocabulary, vocabulary=vocabulary, positions=positions)
        self.vocabularies = vocabularies
        with seeded(seed):
            self.encoder = TokenBody(
                source_vocabulary,
                width,
                heads,
                layers,
                positions,
                feedforward=feedforward,
                dropout=dropout,
            )
            self.embedding = nn.Embedding(vocabulary, width)
            nn.init.normal_(self.embedding.weight, std=0.02)
            self.decoder = TransformerBody(
                width,
                heads,
                layers,
                causal=True,
                positions=positions,
                feedforward=feedforward,
                dropout=dropout,
                cross=True,
            )

    @property
    def positions(self) -> int:
        """The longest sentence that it reads or writes."""
        learned = self.decoder.positions
        assert learned is not None
        return len(learned)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """The scores of what follows each token of the target.

        Args:
            source: `[N, S]`, whole numbers.
            target: `[N, L]`, the translation so far, from its start sign on.

        Returns:
            `[N, L, vocabulary]`.

        Raises:
            ValueError: tokens of another shape or type, outside the vocabulary, or more than the
                positions.
        """
        return self.scores(self.hidden(target, self.memory(source), source != 0))

    def memory(self, source: Tensor) -> Tensor:
        """What the encoder makes of each token: `[N, S]` to `[N, S, width]`."""
        self._check("source", source)
        memory: Tensor = self.encoder(source)
        return memory

    def hidden(self, target: Tensor, memory: Tensor, source_mask: Tensor) -> Tensor:
        """What the decoder makes of each token: target `[N, L]` to `[N, L, width]`.

        Args:
            target: `[N, L]`.
            memory: of the source, `[N, S, width]`.
            source_mask: `[N, S]`, true where a token stands.
        """
        self._check("target", target)
        try:
            x = self.embedding(target)
        except IndexError as error:
            raise ValueError(
                f"target has tokens from {int(target.min())} to {int(target.max())}, but the "
                f"translator knows 0 to {self.embedding.num_embeddings - 1}: they are of another "
                "vocabulary"
            ) from error
        hidden: Tensor = self.decoder(x, target != 0, source=memory, source_mask=source_mask)
        return hidden

    def scores(self, hidden: Tensor) -> Tensor:
        """The score of every token: `[..., width]` to `[..., vocabulary]`."""
        return F.linear(hidden, self.embedding.weight)

    def check_vocabularies(self, source: str, target: str) -> None:
        """Refuse tokens of other vocabularies than the model was made for.

        Args:
            source, target: their digests.

        Raises:
            ValueError: they are other ones.
        """
        if self.vocabularies is not None and self.vocabularies != (source, target):
            raise ValueError(
                f"the vocabularies are {(source, target)}, but the translator was made for "
                f"{self.vocabularies}: encode with those, its tokens mean other words here"
            )

    def _check(self, name: str, tokens: Tensor) -> None:
        if tokens.ndim != 2 or tokens.is_floating_point():
            raise ValueError(
                f"{name} has the shape {list(tokens.shape)} and is of {tokens.dtype}; it must be "
                "tokens [N, places], whole numbers"
            )
        if tokens.shape[1] > self.positions:
            raise ValueError(
                f"{name} has {tokens.shape[1]} places, more than positions={self.positions}: leave "
                "longer sentences out, or build the translator with more positions"
            )

    def extra_repr(self) -> str:
        return f"vocabularies={self.vocabularies}"
