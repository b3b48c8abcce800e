"""A word by its company: the universal lexical representation (Gu et al. 2018).

    a_i(w) = softmax_i( k_i^T A q_w / tau ),    e(w) = sum_i a_i(w) v_i + d_w                 (1)

A word w of any language is looked up among universal words i, here those of English. q_w, its
query, comes from text of its language alone and is brought into the space of the keys k_i
beforehand; neither is learned. Learned are A, which starts as the identity, the values v_i, which
all languages share, and the deviations d_w, which start at 0. So a word that no translation has
shown yet has a vector all the same, near those of words that keep the same company.

Sources: Gu, Hassan, Devlin and Li, "Universal Neural Machine Translation for Extremely Low Resource
Languages", NAACL 2018; Gu et al., "Meta-Learning for Low-Resource Neural Machine Translation",
EMNLP 2018, section 3.3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metanotes._ground.checks import positive


class UniversalEmbedding(nn.Module):
    """An embedding of tokens by the lookup (1), in the place of an `nn.Embedding`.

    The values are drawn from the global random state, with standard deviation 0.02.

    Args:
        queries: q, `[vocabulary, d]`; a row of zeros looks nothing up, and has its deviation alone.
        keys: k, `[universal, d]`.
        width: of the vectors e.
        temperature: tau, above 0: the smaller, the fewer universal words a word resembles.

    Raises:
        ValueError: queries and keys of different widths, or a temperature that is not above 0.

    >>> queries, keys = torch.eye(4)[:3], torch.eye(4)
    >>> embedding = UniversalEmbedding(queries, keys, width=8)
    >>> embedding(torch.tensor([[0, 2, 2, 1]])).shape
    torch.Size([1, 4, 8])

    A translator reads by it after `model.encoder.embedding = embedding`.
    """

    queries: Tensor
    keys: Tensor

    def __init__(
        self, queries: Tensor, keys: Tensor, width: int, temperature: float = 0.05
    ) -> None:
        super().__init__()
        if queries.ndim != 2 or keys.ndim != 2 or queries.shape[1] != keys.shape[1]:
            raise ValueError(
                f"queries {list(queries.shape)} and keys {list(keys.shape)} must be [words, d], "
                "with the same d"
            )
        self.temperature = positive("temperature", temperature)
        self.num_embeddings, self.embedding_dim = len(queries), width
        self.register_buffer("queries", queries.clone())
        self.register_buffer("keys", keys.clone())
        self.alignment = nn.Parameter(torch.eye(queries.shape[1]).to(queries))  # A
        self.values = nn.Parameter(0.02 * torch.randn(len(keys), width).to(queries))
        self.deviation = nn.Embedding(len(queries), width).to(queries.dtype)
        nn.init.zeros_(self.deviation.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """e of each token: `[N, L]` to `[N, L, width]`."""
        deviation = self.deviation(tokens)
        queries = self.queries[tokens]  # [N, L, d]
        known = (queries != 0).any(-1, keepdim=True)
        scores = queries @ self.alignment.T @ self.keys.T / self.temperature  # [N, L, universal]
        found: Tensor = scores.softmax(-1) @ self.values
        return found * known + deviation
