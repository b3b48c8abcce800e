"""Transformers on tokens: padding, what a sequence comes to, and what they refuse."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from metanotes import ANIL, Batch, Task
from metanotes.nets import TokenBody, token_transformer


def body(**options) -> TokenBody:
    torch.manual_seed(0)
    return TokenBody(20, 8, 2, 2, 6, **options).double()


def test_padding_is_as_if_it_were_not_there():
    short, filled = torch.tensor([[5, 6, 7]]), torch.tensor([[5, 6, 7, 0, 0, 0]])
    for pool in (None, "mean", 6):
        z, longer = body(pool=pool)(short), body(pool=pool)(filled)
        assert torch.allclose(longer if pool else longer[:, :3], z, atol=1e-12)
    assert not torch.allclose(body(pool="mean", padding=None)(filled), body(pool="mean")(filled))


@pytest.mark.parametrize("kind", [torch.bool, torch.long])
def test_a_mask_may_be_given(kind):
    model, x = body(pool="mean"), torch.tensor([[5, 6, 9, 9], [5, 9, 9, 9]])
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]], dtype=kind)
    filled = torch.where(mask.bool(), x, 0)
    assert torch.equal(model(input_ids=x, attention_mask=mask), model(filled))


def test_a_sequence_comes_to_the_mean_or_to_one_token():
    x = torch.tensor([[5, 3, 7, 3, 0], [5, 6, 7, 8, 9]])
    places, mean, at_3 = (body(pool=pool)(x) for pool in (None, "mean", 3))
    assert torch.allclose(mean[0], places[0, :4].mean(0))
    assert torch.allclose(mean[1], places[1].mean(0))
    assert torch.allclose(at_3[0], (places[0, 1] + places[0, 3]) / 2)
    assert torch.equal(at_3[1], torch.zeros(8).double())


def test_causal_tokens_do_not_see_later_ones():
    model = body(causal=True)
    a, b = model(torch.tensor([[5, 6, 7, 8]])), model(torch.tensor([[5, 6, 9, 9]]))
    assert torch.equal(a[:, :2], b[:, :2])
    assert not torch.allclose(a[:, 2:], b[:, 2:])


def test_the_number_of_weights():
    layer = 2 * 2 * 8 + 4 * 8 * 9 + 8 * 32 + 32 + 32 * 8 + 8
    count = sum(p.numel() for p in body().parameters())
    assert count == 20 * 8 + 6 * 8 + 2 * layer + 2 * 8


def test_the_last_module_is_the_head():
    x = torch.randint(1, 20, (3, 6))
    model, alone = token_transformer(4, 20, 6, 8, 2, 1), token_transformer(None, 20, 6, 8, 2, 1)
    assert isinstance(model[-1], nn.Linear)
    assert torch.equal(model[:-1](x), alone(x))
    assert model(x).shape == (3, 4)
    assert token_transformer(4, 20, 6, 8, 2, 1, pool=None)(x).shape == (3, 6, 4)


def test_a_masked_word_is_learned_with_the_embedding_used_twice():
    model = body()
    x = torch.tensor([[5, 6, 7, 0], [8, 9, 5, 6]])
    logits = F.linear(model(x), model.embedding.weight)
    assert logits.shape == (2, 4, 20)
    F.cross_entropy(logits.flatten(0, 1), x.flatten(), ignore_index=0).backward()
    assert model.embedding.weight.grad.isfinite().all()


def test_its_head_adapts_to_sentences():
    g = torch.Generator().manual_seed(0)
    sets = [
        Batch(torch.randint(1, 20, (2, n, 6), generator=g), torch.randint(3, (2, n), generator=g))
        for n in (6, 4)
    ]
    learner = ANIL(token_transformer(3, 20, 6, 8, 2, 1), inner_lr=0.05, steps=2)
    learner(Task(*sets)).mean().backward()
    assert all(p.grad.isfinite().all() for p in learner.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: body(pool="max"), "pool='max' must be"),
        (lambda: body(pool=20), "pool=20 must be a token below vocabulary=20"),
        (lambda: body(pool=-1), "pool=-1 must be"),
        (lambda: body(padding=20), "padding=20 must be a token below"),
        (lambda: TokenBody(0, 8, 2, 2, 6), "vocabulary=0 must be"),
        (lambda: TokenBody(20, 9, 2, 2, 6), "width=9 must be a multiple of heads=2"),
        (lambda: token_transformer(0, 20, 6), "ways=0 must be"),
        (lambda: body()(torch.zeros(2, 3)), r"input_ids has the shape \[2, 3\] and is of torch.fl"),
        (lambda: body()(torch.ones(3).long()), r"input_ids has the shape \[3\]"),
        (lambda: body()(torch.ones(2, 7).long()), "x has 7 places, more than positions=6"),
    ],
)
def test_bad_settings_and_inputs_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
