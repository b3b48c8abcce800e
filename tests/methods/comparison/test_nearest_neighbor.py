"""The baselines of transfer learning: a classifier of all classes, and the nearest neighbour."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanotes import (
    Batch,
    Classifier,
    NearestNeighbor,
    Task,
    cross_entropy,
    evaluate,
    meta_train,
    mse,
)
from metanotes.data import batches, glyphs
from metanotes.nets import conv4
from tests.plainly import Branching, image_tasks, shaken

# ---------------------------------------------------------------------------- the classifier


def test_a_classifier_learns_the_classes_of_its_data():
    images = glyphs("background")
    few = Batch(images.x[images.y < 8], images.y[images.y < 8])
    data = batches(few, size=32, rotations="classes")
    net = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(196, 32), nn.Tanh())
    learner = Classifier(nn.Sequential(net, nn.Linear(32, 32)))
    history = meta_train(learner, data, iterations=150, tasks=1, meta_lr=0.01, progress=False)
    first, last = (sum(part) / 10 for part in (history.losses[:10], history.losses[-10:]))
    assert last < 0.5 * first
    assert evaluate(learner, data, 10, transductive=True).mean > 0.5  # of 32 classes


def test_its_loss_is_that_of_the_network_on_each_minibatch_alone():
    model = shaken(conv4(5, channels=4))
    tasks = image_tasks(tasks=3)
    learner = Classifier(model)
    losses = learner(tasks)
    expected = [cross_entropy(model(x), y) for x, y in zip(*tasks.query, strict=True)]
    torch.testing.assert_close(losses, torch.stack(expected), rtol=1e-12, atol=0)
    phi = list(model.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(losses.mean(), phi),
        torch.autograd.grad(torch.stack(expected).mean(), phi),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


def test_an_ordinary_network_may_keep_running_statistics():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784), nn.Linear(784, 5)).double()
    learner, tasks = Classifier(model), image_tasks(tasks=2)
    learner(tasks).mean().backward()
    assert model[1].num_batches_tracked == 2
    learner.eval()
    outputs = learner.predict(learner.adapt(tasks.support), tasks.query.x)
    torch.testing.assert_close(outputs[1, 3], model(tasks.query.x[1, 3:4])[0])


def test_a_network_may_look_at_its_data_and_have_another_loss():
    x, y = torch.randn(2, 4, 1, 28, 28), torch.randn(2, 4, 5)
    model = Branching()
    ours = Classifier(model, loss=mse)(Task(Batch(x, y), Batch(x, y)))
    torch.testing.assert_close(ours, torch.stack([mse(model(x[n]), y[n]) for n in range(2)]))


def test_labels_that_the_network_does_not_have_are_refused():
    data = batches(glyphs("background"), size=200, rotations="classes")
    with pytest.raises(ValueError, match="the model's outputs have 3 classes"):
        Classifier(nn.Sequential(nn.Flatten(), nn.Linear(784, 3)))(data(1))


# --------------------------------------------------------------------- the nearest neighbour


def plain_neighbors(z: Tensor, y: Tensor, zq: Tensor, ways: int) -> tuple[Tensor, Tensor]:
    """Of one task: the label of the nearest, and the least distance to each class `[M, ways]`."""
    z, zq = (t / t.square().sum(1, keepdim=True).sqrt() for t in (z.flatten(1), zq.flatten(1)))
    distances = torch.cdist(zq, z, compute_mode="donot_use_mm_for_euclid_dist")
    to_class = torch.stack([distances[:, y == c].min(1).values for c in range(ways)], 1)
    return y[distances.argmin(1)], to_class


def several_shots(ways: int = 4, shots: int = 3, queries: int = 9) -> Task:
    g = torch.Generator().manual_seed(8)
    x = torch.randn(2, ways * shots, 1, 7, 6, generator=g, dtype=torch.float64)
    xq = torch.randn(2, queries, 1, 7, 6, generator=g, dtype=torch.float64)
    y = torch.stack([torch.randperm(ways * shots, generator=g) % ways for _ in range(2)])
    return Task(Batch(x, y), Batch(xq, torch.randint(ways, (2, queries), generator=g)))


def body_with_batch_norm() -> nn.Module:
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    return shaken(nn.Sequential(nn.Conv2d(1, 3, 3), norm, nn.ReLU()))


@pytest.mark.parametrize("shots", [1, 3])
@pytest.mark.parametrize("body", [nn.Flatten, body_with_batch_norm])
def test_it_answers_as_distances_between_features_do(body, shots):
    tasks, body = several_shots(shots=shots), body()
    learner = NearestNeighbor(body, ways=4)
    outputs = learner.predict(learner.adapt(tasks.support), tasks.query.x)
    assert outputs.shape == (2, 9, 4)
    for n in range(2):
        x, y, xq = tasks.support.x[n], tasks.support.y[n], tasks.query.x[n]
        labels, distances = plain_neighbors(body(x), y, body(xq), 4)
        assert torch.equal(outputs[n].argmax(1), labels)
        # |a - b|^2 = 2 - 2 cos, between features of length 1
        torch.testing.assert_close(2 - 2 * outputs[n], distances.square(), rtol=0, atol=1e-12)


def test_the_length_of_features_does_not_matter():
    tasks, learner = several_shots(), NearestNeighbor(nn.Flatten(), ways=4)
    outputs = learner.predict(learner.adapt(tasks.support), tasks.query.x)
    longer = learner.predict(learner.adapt(tasks.support), 7 * tasks.query.x)
    torch.testing.assert_close(outputs, longer)


def test_of_two_that_are_as_near_the_first_label_wins_and_no_example_is_no_answer():
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    support = Batch(torch.stack([b, a, a, a])[None], torch.tensor([[0, 3, 1, 3]]))
    learner = NearestNeighbor(nn.Identity(), ways=5)
    outputs = learner.predict(learner.adapt(support), torch.stack([a, b, -a])[None])[0]
    assert outputs.tolist() == [
        [0.0, 1.0, -torch.inf, 1.0, -torch.inf],
        [1.0, 0.0, -torch.inf, 0.0, -torch.inf],
        [0.0, -1.0, -torch.inf, -1.0, -torch.inf],
    ]
    assert outputs.argmax(1).tolist() == [1, 0, 0]


@pytest.mark.parametrize("transductive", [False, True])
def test_evaluation_normalises_the_batches_that_it_says(transductive):
    tasks, body = several_shots(), body_with_batch_norm()
    learner = NearestNeighbor(body, ways=4)

    def metric(out: Tensor, y: Tensor) -> Tensor:
        return out.square().sum()

    score = evaluate(learner, lambda n: tasks, 2, transductive=transductive, metric=metric)
    for value, x, y, xq in zip(score.values, *tasks.support, tasks.query.x, strict=True):
        if transductive:
            zq = body(xq)
        else:
            zq = torch.stack([body(torch.cat([x, query[None]]))[-1] for query in xq])
        _, distances = plain_neighbors(body(x), y, zq, 4)
        expected = (1 - distances.square() / 2).square().sum().detach()
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)
    other = evaluate(learner, lambda n: tasks, 2, transductive=not transductive, metric=metric)
    assert (other.values - score.values).abs().min() > 1e-3  # the two are told apart


def test_a_body_that_vmap_cannot_batch_works_one_by_one():
    tasks = image_tasks()
    learner = NearestNeighbor(shaken(Branching()), ways=5)
    score = evaluate(learner, lambda n: tasks, 3)
    for value, x, y, xq, yq in zip(score.values, *tasks.support, *tasks.query, strict=True):
        zq = torch.stack([learner.body(torch.cat([x, query[None]]))[-1] for query in xq])
        labels, _ = plain_neighbors(learner.body(x), y, zq, 5)
        assert value == (labels == yq).double().mean()


def test_labels_outside_the_ways_are_refused():
    tasks = image_tasks()
    with pytest.raises(ValueError, match=r"labels run from 0 to 4, but .* 3 classes"):
        NearestNeighbor(nn.Flatten(), ways=3).adapt(tasks.support)


def test_the_loss_of_a_neighbour_is_that_of_its_cosines():
    tasks = several_shots()
    learner = NearestNeighbor(nn.Flatten(), ways=4)
    outputs = learner.predict(learner.adapt(tasks.support), tasks.query.x)
    expected = [F.cross_entropy(o, y) for o, y in zip(outputs, tasks.query.y, strict=True)]
    torch.testing.assert_close(learner(tasks), torch.stack(expected))
