"""The cosine head: its scores one by one, lengths that do not matter, what its scale allows."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from metanotes import ANIL, MAML
from metanotes.nets import CosineHead
from tests.plainly import image_tasks, meta_gradient, plain_loop, relative_error, shaken


def test_its_scores_are_cosines():
    head = CosineHead(6, 4, scale=3.0).double()
    z = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)).double()
    for i, scores in enumerate(head(z)):
        for k, w in enumerate(head.weight):
            cosine = (z[i] @ w) / ((z[i] @ z[i]).sqrt() * (w @ w).sqrt())
            torch.testing.assert_close(scores[k], 3 * cosine, rtol=1e-12, atol=1e-12)


def test_lengths_do_not_matter():
    head, z = CosineHead(6, 4), torch.randn(5, 6)
    before = head(z)
    with torch.no_grad():
        head.weight *= torch.tensor([[0.1], [1.0], [5.0], [20.0]])
    torch.testing.assert_close(head(3 * z), before)


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_no_class_gets_more_than_the_scale_allows(scale):
    head = CosineHead(2, 20, scale).double()
    with torch.no_grad():
        head.weight[:] = torch.tensor([[1.0, 0.0]] + 19 * [[-1.0, 0.0]])
    p = head(torch.tensor([[1.0, 0.0]]).double()).detach().softmax(1)[0, 0]
    assert float(p) == pytest.approx(1 / (1 + 19 * math.exp(-2 * scale)))


def test_it_starts_as_a_linear_layer_does():
    torch.manual_seed(0)
    weight = CosineHead(6, 4).weight
    torch.manual_seed(0)
    assert torch.equal(weight, nn.Linear(6, 4).weight)


@pytest.mark.parametrize("adapts", [None, "head"])
def test_it_learns_from_a_support_set(adapts):
    tasks = image_tasks(size=8)
    model = shaken(nn.Sequential(nn.Flatten(), nn.Linear(64, 6), CosineHead(6, 5)))
    if adapts is None:
        expected = plain_loop(model, tasks, 0.1, 2, cross_entropy)
        assert relative_error(meta_gradient(MAML(model, 0.1, 2), tasks), expected) < 1e-10
    else:
        learner = ANIL(model, 0.1, 2)
        assert list(learner.adapt(tasks.support)) == ["2.weight"]
        ours = meta_gradient(learner, tasks)
        assert (
            relative_error(ours, meta_gradient(MAML(model, 0.1, 2, adapts="head"), tasks)) < 1e-12
        )


@pytest.mark.parametrize("bad", [{"features": 0}, {"ways": 0}, {"scale": 0.0}, {"scale": -1.0}])
def test_bad_settings_are_named(bad):
    ((name, value),) = bad.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        CosineHead(**{"features": 6, "ways": 4, **bad})
