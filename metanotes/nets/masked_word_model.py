"""A model that names hidden words: a body on tokens, and its embedding used a second time.

    z = body(x),    scores of the word at place p:    E z_p + b,    E the embedding            (1)

What a word is given as and what it is answered by is the same vector. It is worked out at the
hidden places alone, since the other ones have no part in the loss.

Sources: Devlin et al., "BERT", NAACL 2019; the weights shared, Press and Wolf, "Using the Output
Embedding to Improve Language Models", EACL 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanotes.nets.token_transformer import TokenBody


class MaskedWordModel(nn.Module):
    """Scores (1) of every word of the vocabulary, at some places of a sentence.

    Args:
        body: a `TokenBody` that gives every place, `pool=None`.

    Raises:
        ValueError: a body with a `pool`.

    Source: see the module's.

    >>> from metanotes.nets import TokenBody
    >>> model = MaskedWordModel(TokenBody(100, width=32, heads=4, layers=2, positions=16))
    >>> model(torch.ones(8, 12).long(), places=torch.ones(8, 2).long()).shape
    torch.Size([8, 2, 100])
    """

    def __init__(self, body: TokenBody) -> None:
        super().__init__()
        if body.pool is not None:
            raise ValueError(f"the body has pool={body.pool!r}, and must give every place: None")
        self.body = body
        self.bias = nn.Parameter(torch.zeros(body.embedding.num_embeddings))

    def forward(
        self, input_ids: Tensor, places: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        """The scores.

        Args:
            input_ids: `[N, L]`, see `TokenBody`.
            places: `[N, P]`, of each sentence, whole numbers in 0..L - 1.
            attention_mask: see `TokenBody`.

        Returns:
            `[N, P, vocabulary]`.
        """
        z = self.body(input_ids, attention_mask)  # [N, L, width]
        z = z.gather(1, places[:, :, None].expand(-1, -1, z.shape[2]))  # [N, P, width]
        return F.linear(z, self.body.embedding.weight, self.bias)
