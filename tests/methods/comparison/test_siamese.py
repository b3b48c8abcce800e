"""Siamese networks: all pairs of a task one by one, and the most similar example as the answer."""

import pytest
import torch
from torch import nn

from metanotes import SiameseNetwork
from metanotes.methods.comparison import pair_loss
from metanotes.nets import conv4, mlp
from tests.methods.comparison.compared import assert_losses_and_gradient, body, uneven_tasks
from tests.plainly import in_groups_of


def siamese() -> SiameseNetwork:
    learner = SiameseNetwork(body(), ways=3).double()
    with torch.no_grad():
        learner.alpha += torch.linspace(-0.5, 0.7, 6)
        learner.b += 0.3
    return learner


@pytest.mark.parametrize("size", [None, 1, 2])
def test_losses_and_gradient_are_those_of_all_pairs_one_by_one(size):
    learner, tasks = siamese(), uneven_tasks()
    plain = []
    for x, y, xq, yq in zip(*tasks.support, *tasks.query, strict=True):
        z, labels = [*learner.body(x), *learner.body(xq)], [*y.tolist(), *yq.tolist()]
        terms = {True: [], False: []}
        for i in range(12):
            for j in range(i):
                r = learner.b + sum(learner.alpha[f] * (z[i][f] - z[j][f]).abs() for f in range(6))
                p, same = 1 / (1 + (-r).exp()), labels[i] == labels[j]
                terms[same].append(-(p if same else 1 - p).log())
        plain.append(sum(torch.stack(kind).mean() for kind in terms.values()) / 2)
    with in_groups_of(size):
        assert_losses_and_gradient(learner, tasks, plain)


def test_the_answer_is_the_class_of_the_most_similar_support_example():
    learner, tasks = siamese(), uneven_tasks(queries=20)
    outputs = learner.predict(learner.adapt(tasks.support), tasks.query.x)
    for n, (x, y, xq) in enumerate(zip(*tasks.support, tasks.query.x, strict=True)):
        z, zq = learner.body(x), learner.body(xq)
        r = learner.b + (zq[:, None] - z).abs() @ learner.alpha  # [M, N]
        assert torch.equal(outputs[n].argmax(1), y[r.argmax(1)])
        best = torch.stack([r[:, y == k].max(1).values for k in range(3)], 1)
        torch.testing.assert_close(outputs[n], best, rtol=1e-12, atol=1e-12)


def test_few_pairs_of_one_class_weigh_as_much_as_many_others():
    r = torch.tensor([0.7, -0.2, 1.3, 0.1], dtype=torch.float64)
    same = torch.tensor([True, False, False, False])
    expected = -(r[0].sigmoid().log() + (1 - r[1:].sigmoid()).log().mean()) / 2
    torch.testing.assert_close(pair_loss(r, same), expected)


def test_it_starts_as_the_distance_of_the_features():
    learner, z = SiameseNetwork(nn.Flatten(), ways=2, features=4), torch.rand(2, 3, 4)
    torch.testing.assert_close(learner.similarity(z, 0 * z), -z.mean(2))


def test_the_features_are_read_off_the_body_or_told():
    assert SiameseNetwork(conv4(None, channels=3), ways=5).alpha.shape == (12,)
    assert SiameseNetwork(mlp(8, 4), ways=5).alpha.shape == (4,)
    with pytest.raises(ValueError, match="ends in Flatten, which does not tell how many features"):
        SiameseNetwork(nn.Flatten(), ways=5)
    with pytest.raises(ValueError, match="features=0 must be"):
        SiameseNetwork(nn.Flatten(), ways=5, features=0)
