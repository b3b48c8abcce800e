"""Vectors of words from text alone, and how to bring those of one language to another's.

    M_ij = max(0, log( p(i, j) / (p(i) p(j)) )),    M ~ U S V^T,    x_i = (U sqrt(S))_i / norm  (1)
    R = argmin over rotations of sum |R x_i - z_j|^2 = B C,    with B S C = svd(Z^T X)        (2)

Words count as neighbours when they stand in one sentence, in whatever order, so that languages of
different orders give like vectors. (1) is the positive pointwise mutual information and its largest
singular vectors; (2) is Procrustes' problem, for a small dictionary of pairs.

Sources: Levy and Goldberg, "Neural Word Embedding as Implicit Matrix Factorization", NeurIPS 2014;
Smith, Turban, Hamblin and Hammerla, "Offline Bilingual Word Vectors", ICLR 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metanotes._ground.checks import count

SIGNS = 5  # the first tokens of a vocabulary are no words


def word_vectors(tokens: Tensor, vocabulary: int, width: int) -> Tensor:
    """Unit vectors of words, by (1).

    Args:
        tokens: sentences, `[n, L]`, filled up with 0.
        vocabulary: how many tokens there are.
        width: numbers of a vector, at most the words that occur.

    Returns:
        `[vocabulary, width]`; zeros for signs and for words that do not occur beside others.

    Raises:
        ValueError: a width below 1, or above the number of words.

    >>> tokens = torch.tensor([[5, 6], [5, 7], [8, 9], [8, 10]])
    >>> x = word_vectors(tokens, vocabulary=12, width=4)
    >>> x.shape, bool(x[6] @ x[7] > x[6] @ x[9]), x[11].tolist()
    (torch.Size([12, 4]), True, [0.0, 0.0, 0.0, 0.0])
    """
    words, places = tokens.cpu().unique(return_inverse=True)  # places: [n, L], in the words
    stands = torch.zeros(len(tokens), len(words), dtype=torch.float64)
    stands.scatter_(1, places, 1.0)
    words, stands = words[words >= SIGNS], stands[:, words >= SIGNS]
    if count("width", width) > len(words):
        raise ValueError(f"width={width} is more than the {len(words)} words that occur")
    together = stands.T @ stands
    together.fill_diagonal_(0)
    beside = together.sum(1)
    own = beside.clamp(min=1)  # a word that stands alone has nothing to divide
    information = (together * together.sum() / own[:, None] / own).log().clamp(min=0)
    left, values, _ = torch.linalg.svd(information)
    vectors = left[:, :width] * values[:width].sqrt()
    out = torch.zeros(vocabulary, width)
    out[words] = (torch.nn.functional.normalize(vectors) * (beside > 0)[:, None]).float()
    return out


def turned(vectors: Tensor, onto: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Vectors of one language, turned by (2) so that those of a dictionary lie on the other's.

    Args:
        vectors: of one language, `[vocabulary, d]`.
        onto: of the other, `[other vocabulary, d]`.
        pairs: tokens of the one and of the other that mean the same.

    Returns:
        `[vocabulary, d]`, the vectors times one rotation (or reflection).

    Raises:
        ValueError: no pair.

    >>> turn = torch.linalg.qr(torch.randn(3, 3)).Q
    >>> x = torch.randn(9, 3)
    >>> torch.allclose(turned(x @ turn, x, [(n, n) for n in range(5)]), x, atol=1e-5)
    True
    """
    if not pairs:
        raise ValueError("pairs is empty: to turn one language to another takes some words of both")
    ours, theirs = (list(side) for side in zip(*pairs, strict=True))
    left, _, right = torch.linalg.svd((onto[theirs].T @ vectors[ours]).double())
    return vectors @ (left @ right).T.to(vectors)
