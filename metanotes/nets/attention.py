"""Attention: what each place of a sequence takes from the places of another (Vaswani et al. 2017).

    a(q, k, v) = softmax(q k^T / sqrt(d)) v                                                   (1)

It is written out as (1) says. torch's own kernels do the same faster, but lack second derivatives
on a CPU, or derivatives in `eval()` under `torch.func.vmap`, which learners that descend need.

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from metanotes._ground.checks import counts


class Attention(nn.Module):
    """Attention (1) with several heads side by side, from a sequence to itself or to another.

    Its weights are drawn from the global random state, as those of any module of torch's.

    Args:
        width: numbers at a place, a multiple of `heads`.
        heads: how many; each works with d = width / heads of the numbers.

    Raises:
        ValueError: a count below 1, a width that is no multiple of the heads.

    >>> x = torch.zeros(8, 10, 64)
    >>> Attention(width=64, heads=4)(x, x).shape
    torch.Size([8, 10, 64])
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        counts(width=width, heads=heads)
        if width % heads:
            raise ValueError(f"width={width} must be a multiple of heads={heads}")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, source: Tensor, hidden: Tensor | None = None) -> Tensor:
        """What each place of x takes from the source.

        Args:
            x: `[N, L, width]`.
            source: `[N, S, width]`; x itself for self-attention.
            hidden: see `hidden_places`, `[1 or N, 1, 1 or L, S]`.

        Returns:
            `[N, L, width]`.
        """
        key, value = self.key_value(source).chunk(2, -1)
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(-2, -3)  # [N, heads, L or S, d]
            for t in (self.query(x), key, value)
        )
        scores = q @ k.mT / math.sqrt(q.shape[-1])  # [N, heads, L, S]
        if hidden is None:
            weights = scores.softmax(-1)
        else:
            # a place that may see nothing would get NaN from -inf; it takes nothing
            scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
            weights = scores.softmax(-1).masked_fill(hidden, 0)
        return self.out((weights @ v).transpose(-2, -3).flatten(-2))


def hidden_places(
    x: Tensor,
    source: Tensor,
    attention_mask: Tensor | None = None,
    visible: Tensor | None = None,
    causal: bool = False,
) -> Tensor | None:
    """Where a place of x may not see one of the source, for whatever reason.

    Args:
        x: `[N, L, width]`.
        source: `[N, S, width]`.
        attention_mask: `[N, S]`, true (or 1) at the places of the source that are there and false
            (or 0) at padding.
        visible: `[L, S]` or `[N, L, S]`, true where a place of x (row) may see one of the source
            (column).
        causal: whether a place sees only itself and those before it.

    Returns:
        Booleans that broadcast to `[N, heads, L, S]`; None if all may see all.

    Raises:
        ValueError: a mask of another shape, or of fractions.

    >>> x = torch.zeros(1, 3, 8)
    >>> hidden_places(x, x, causal=True)[0, 0]
    tensor([[False,  True,  True],
            [False, False,  True],
            [False, False, False]])
    """
    N, L, S = len(x), x.shape[1], source.shape[1]
    rules = []
    if attention_mask is not None:
        mask = _booleans("attention_mask", attention_mask, {"[N, S]": (N, S)})
        rules.append(mask[:, None, None])
    if visible is not None:
        shapes = {"[L, S]": (L, S), "[N, L, S]": (N, L, S)}
        mask = _booleans("visible", visible, shapes)
        rules.append(mask if mask.ndim == 2 else mask[:, None])
    if causal:
        rules.append(torch.ones(L, S, dtype=torch.bool, device=x.device).tril())
    if not rules:
        return None
    seen = rules[0]
    for rule in rules[1:]:
        seen = seen & rule
    return ~seen.expand(*(1,) * (4 - seen.ndim), *seen.shape)


def _booleans(name: str, mask: Tensor, shapes: dict[str, tuple[int, ...]]) -> Tensor:
    """A mask of one of these shapes, as booleans.

    Raises:
        ValueError: names the mask.
    """
    if mask.is_floating_point() or mask.is_complex():
        raise ValueError(
            f"{name} is of {mask.dtype}; it must be of booleans, or of 0 and 1: true is seen"
        )
    if tuple(mask.shape) not in shapes.values():
        these = " or ".join(f"{form} = {list(shape)}" for form, shape in shapes.items())
        raise ValueError(f"{name} has the shape {list(mask.shape)}; it must have {these}")
    return mask.bool()
