"""The loss of a sentence: cross entropy, token by token, without those that only fill up a row.

    l = - mean over tokens of sum_v q(v) log p(v),    q = (1 - s) [v = y] + s / V

s is the smoothing of labels (Szegedy et al. 2016): with it no token is certain. What y marks by
-100 is left out of the mean.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from metanotes.task import IGNORED


def token_loss(outputs: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
    """The mean loss of the tokens that count, a scalar.

    With `functools.partial(token_loss, smoothing=0.1)` it is a learner's `loss=`.

    Args:
        outputs: `[N, L, V]`, a score for each token.
        y: `[N, L]`, the right token, or -100 at a place that does not count.
        smoothing: s, in [0, 1).

    Returns:
        NaN where no token counts.

    Raises:
        ValueError: y is not shaped as the places of the outputs.

    >>> import torch
    >>> y = torch.tensor([[1, 2], [3, -100]])
    >>> token_loss(torch.zeros(2, 2, 4), y)                 # log 4
    tensor(1.3863)
    """
    if y.shape != outputs.shape[:-1]:
        raise ValueError(
            f"y has the shape {list(y.shape)} and outputs {list(outputs.shape)}: a token [N, L] "
            "for each place of [N, L, V]"
        )
    return cross_entropy(
        outputs.flatten(0, -2), y.flatten(), ignore_index=IGNORED, label_smoothing=smoothing
    )
