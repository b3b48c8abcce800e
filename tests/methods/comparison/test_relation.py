"""Relation networks: a plain loop over pairs of maps, laid one on the other as in the paper."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanotes import RelationNetwork, cross_entropy
from metanotes.methods.comparison import (
    RelationModule,
    feature_relation,
    map_relation,
    sigmoid_mse,
)
from metanotes.nets import conv4
from tests.methods.comparison.compared import (
    assert_losses_and_gradient,
    body,
    map_body,
    uneven_tasks,
)
from tests.plainly import in_groups_of, shaken


def relation_of_concatenated(relation: RelationModule, q: Tensor, c: Tensor) -> Tensor:
    """g([a; b]) of every pair, with the halves of the first layer put together: `[M, K]`."""
    pairs = torch.cat([torch.cat([a, b])[None] for a in q for b in c])
    first, other = relation.of_query, relation.of_class
    weight = torch.cat([first.weight, other.weight], 1)
    if isinstance(first, nn.Conv2d):
        h = F.conv2d(pairs, weight, first.bias, first.stride, first.padding)
    else:
        h = F.linear(pairs, weight, first.bias)
    return relation.score(h).view(len(q), len(c))


def parts(kind: str) -> tuple[nn.Module, RelationModule]:
    if kind == "maps":
        return map_body(), shaken(map_relation(4, 5, hidden=3))
    return body(), shaken(feature_relation(6, hidden=7))


@pytest.mark.parametrize("size", [None, 1])
@pytest.mark.parametrize("loss", [sigmoid_mse, cross_entropy])
@pytest.mark.parametrize("kind", ["maps", "features"])
def test_losses_and_gradient_are_those_of_a_plain_loop(kind, loss, size):
    learner, tasks = RelationNetwork(*parts(kind), ways=3, loss=loss), uneven_tasks()
    plain = []
    for x, y, xq, yq in zip(*tasks.support, *tasks.query, strict=True):
        z = learner.body(x)
        summed = torch.stack([z[y == k].sum(0) for k in range(3)])
        scores = relation_of_concatenated(learner.relation, learner.body(xq), summed)
        if loss is cross_entropy:
            plain.append(cross_entropy(scores, yq))
        else:
            errors = [
                (1 / (1 + (-r).exp()) - float(k == label)) ** 2
                for row, label in zip(scores, yq.tolist(), strict=True)
                for k, r in enumerate(row)
            ]
            plain.append(torch.stack(errors).mean())
    with in_groups_of(size):
        assert_losses_and_gradient(learner, tasks, plain)


def test_the_relation_module_of_the_paper_fits_the_maps_of_conv4():
    maps = conv4(None, channels=6, halvings=2)[:-1](torch.rand(3, 1, 28, 28))
    assert maps.shape == (3, 6, 7, 7)
    assert map_relation(6, 7)(maps, maps[:2]).shape == (3, 2)
    smaller = conv4(None, 6, 1, size=42, pool="max", halvings=2)[:-1](torch.rand(3, 1, 42, 42))
    assert map_relation(6, 10)(smaller, smaller).shape == (3, 3)


def test_any_module_of_two_sets_of_features_is_a_relation():
    class Products(nn.Module):
        def forward(self, queries: Tensor, classes: Tensor) -> Tensor:
            return queries @ classes.mT

    learner, tasks = RelationNetwork(body(), Products(), ways=3), uneven_tasks()
    outputs = learner.predict(learner.adapt(tasks.support), tasks.query.x)
    z, y = learner.body(tasks.support.x[1]), tasks.support.y[1]
    summed = torch.stack([z[y == k].sum(0) for k in range(3)])
    torch.testing.assert_close(outputs[1], learner.body(tasks.query.x[1]) @ summed.T)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: map_relation(0), "channels=0 must be"),
        (lambda: map_relation(4, size=0), "size=0 must be"),
        (lambda: feature_relation(4, hidden=0), "hidden=0 must be"),
        (lambda: RelationNetwork(nn.Flatten(), feature_relation(4), ways=True), "ways=True must"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_squared_error_of_comparisons_takes_labels_alone() -> None:
    with pytest.raises(ValueError, match=r"loss=metanotes\.cross_entropy"):
        sigmoid_mse(torch.randn(4, 4), torch.rand(4, 4).softmax(1))
