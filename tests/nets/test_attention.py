"""Attention: against torch's own, and what may not be seen is not."""

import pytest
import torch
from torch import nn

from metanotes.nets import Attention
from metanotes.nets.attention import hidden_places


def pair(width: int, heads: int) -> tuple[Attention, nn.MultiheadAttention]:
    """The same weights in ours and in torch's."""
    torch.manual_seed(0)
    ours = Attention(width, heads).double()
    theirs = nn.MultiheadAttention(width, heads, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
    theirs.out_proj = ours.out
    return ours, theirs


@pytest.mark.parametrize("places", [None, 7])
def test_it_is_what_torch_computes(places):
    ours, theirs = pair(12, 3)
    x = torch.randn(2, 5, 12).double()
    source = x if places is None else torch.randn(2, places, 12).double()
    assert torch.allclose(ours(x, source), theirs(x, source, source)[0], atol=1e-12)
    there = torch.rand(2, source.shape[1]) < 0.6
    there[:, 0] = True
    expected = theirs(x, source, source, key_padding_mask=~there)[0]
    hidden = hidden_places(x, source, there.long())
    assert torch.allclose(ours(x, source, hidden), expected, atol=1e-12)


def test_a_place_that_may_see_nothing_takes_nothing():
    attention, x = pair(8, 2)[0], torch.randn(1, 3, 8).double().requires_grad_()
    strictly = torch.ones(3, 3, dtype=torch.bool).tril(-1)
    z = attention(x, x, hidden_places(x, x, visible=strictly))
    assert torch.allclose(z[0, 0], attention.out.bias)
    (gradient,) = torch.autograd.grad(z[0, 0].sum(), x, retain_graph=True)
    assert torch.equal(gradient, torch.zeros_like(x))
    assert torch.autograd.grad(z.sum(), x)[0].isfinite().all()


def test_all_rules_have_to_allow_it():
    x = torch.zeros(2, 3, 4)
    there = torch.tensor([[1, 1, 0], [1, 1, 1]])
    visible = torch.tensor([[True, True, True], [False, True, True], [True, True, True]])
    hidden = hidden_places(x, x, there, visible, causal=True)
    for n in range(2):
        for i in range(3):
            for j in range(3):
                seen = bool(there[n, j]) and bool(visible[i, j]) and j <= i
                assert bool(hidden.expand(2, 1, 3, 3)[n, 0, i, j]) is not seen
    each = torch.stack([visible, visible])
    assert torch.equal(hidden_places(x, x, there, each, causal=True), hidden)
    assert hidden_places(x, x) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention_mask": torch.ones(2, 3)}, "attention_mask is of torch.float32"),
        ({"visible": torch.zeros(3, 3)}, "visible is of torch.float32"),
        ({"attention_mask": torch.ones(3, 3).bool()}, r"has the shape \[3, 3\].* \[N, S\] = \[2,"),
        ({"visible": torch.ones(2, 3).bool()}, r"\[L, S\] = \[3, 3\] or \[N, L, S\] = \[2, 3, 3\]"),
    ],
)
def test_masks_of_another_kind_are_named(options, message):
    x = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match=message):
        hidden_places(x, x, **options)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="width=10 must be a multiple of heads=4"):
        Attention(10, 4)
    with pytest.raises(ValueError, match="heads=0 must be"):
        Attention(10, 0)
