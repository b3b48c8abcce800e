"""Learning from a stream: the steps one by one, what replay adds, and what is refused."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from metanotes import SGD, Adam, Batch, InnerLoopLearner, StreamLearner, Task, cross_entropy
from metanotes.data import episodes, glyphs
from tests.plainly import in_groups_of, meta_gradient, relative_error, shaken


def streams(tasks: int = 3, ways: int = 4, shots: int = 3, queries: int = 5) -> Task:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(ways).repeat_interleave(shots).repeat(tasks, 1)
    x = torch.randn(tasks, ways * shots, 5, generator=g, dtype=torch.float64)
    xq = torch.randn(tasks, queries, 5, generator=g, dtype=torch.float64)
    return Task(Batch(x, y), Batch(xq, torch.randint(ways, (tasks, queries), generator=g)))


def net() -> nn.Sequential:
    return shaken(nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)))


def plain_theta(model, x, y, lr, size, adapts=""):
    """Of one task, example after example."""
    theta = {n: p for n, p in model.named_parameters() if n.startswith(adapts)}
    for first in range(0, len(x), size):
        part = slice(first, first + size)
        loss = cross_entropy(functional_call(model, theta, (x[part],)), y[part])
        grads = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        theta = {n: t - lr * g for (n, t), g in zip(theta.items(), grads, strict=True)}
    return theta


@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("adapts", [None, "head"])
def test_losses_and_gradient_are_those_of_a_plain_loop(adapts, batch, groups):
    model, tasks = net(), streams()
    losses = []
    for x, y, xq, yq in zip(*tasks.support, *tasks.query, strict=True):
        theta = plain_theta(model, x, y, 0.2, batch, "2." if adapts else "")
        losses.append(cross_entropy(functional_call(model, theta, (xq,)), yq))
    learner = StreamLearner(model, SGD(0.2), batch=batch, adapts=adapts)
    with in_groups_of(groups):
        torch.testing.assert_close(learner(tasks), torch.stack(losses), rtol=1e-10, atol=0)
        expected = torch.autograd.grad(torch.stack(losses).mean(), list(model.parameters()))
        assert relative_error(meta_gradient(learner, tasks), expected) < 1e-9


def test_the_order_of_the_stream_matters_as_that_of_a_set_does_not():
    tasks = streams()
    back = Batch(*(t.flip(1) for t in tasks.support))
    stream, whole = StreamLearner(net(), SGD(0.2)), InnerLoopLearner(net(), SGD(0.2), steps=3)
    for learner, same in ((stream, False), (whole, True)):
        there, again = (learner.adapt(s)["0.weight"] for s in (tasks.support, back))
        assert torch.allclose(there, again, atol=1e-12) == same


def test_the_middle_of_a_stream_is_its_first_half():
    tasks, learner = streams(), StreamLearner(net(), Adam(lr=0.05), batch=2)
    first = Batch(tasks.support.x[:, :6], tasks.support.y[:, :6])
    halfway, alone = learner.adapt(tasks.support, steps=3), learner.adapt(first)
    for name, t in halfway.items():
        torch.testing.assert_close(t, alone[name])


def test_more_steps_than_the_stream_has_go_through_it_again():
    tasks, learner = streams(), StreamLearner(net(), SGD(0.2))
    twice = Batch(*(torch.cat([t, t], 1) for t in tasks.support))
    for name, t in learner.adapt(tasks.support, steps=24).items():
        torch.testing.assert_close(t, learner.adapt(twice)[name])


# --------------------------------------------------------------------------------- replay


def numbered(examples: int = 8, tasks: int = 200) -> Batch:
    x = torch.arange(float(examples)).expand(tasks, -1)[..., None]
    return Batch(x, torch.zeros(tasks, examples, dtype=torch.long))


@pytest.mark.parametrize(("batch", "replay"), [(1, 3), (2, 1), (4, 5)])
def test_replay_adds_examples_of_earlier_steps_alone(batch, replay):
    learner = StreamLearner(nn.Linear(1, 2), SGD(0.1), batch=batch, replay=replay)
    torch.manual_seed(0)
    seen = learner.with_replay(numbered()).x[..., 0].unflatten(1, (-1, batch + replay))
    assert seen.shape == (200, 8 // batch, batch + replay)
    for t in range(8 // batch):
        assert (seen[:, t, :batch] == torch.arange(batch) + t * batch).all()
        earlier = seen[:, t, batch:].unique().tolist()
        assert earlier == [float(i) for i in range(max(t, 1) * batch)]  # all of them, sometimes


def test_it_descends_on_what_was_replayed():
    model, tasks = net(), streams()
    learner = StreamLearner(model, SGD(0.2), replay=2)
    torch.manual_seed(4)
    drawn = learner.with_replay(tasks.support)
    torch.manual_seed(4)
    theta = learner.adapt(tasks.support)
    torch.manual_seed(4)
    losses = learner(tasks)
    for n, (x, y, xq, yq) in enumerate(zip(*drawn, *tasks.query, strict=True)):
        plain = plain_theta(model, x, y, 0.2, 3)
        for name, t in plain.items():
            torch.testing.assert_close(theta[name][n], t, rtol=1e-9, atol=1e-12)
        expected = cross_entropy(functional_call(model, plain, (xq,)), yq)
        torch.testing.assert_close(losses[n], expected, rtol=1e-9, atol=0)


def test_episodes_are_streams_class_by_class():
    stream = episodes(glyphs("background"), ways=6, shots=2, queries=1)(3).support.y
    assert torch.equal(stream, torch.arange(6).repeat_interleave(2).repeat(3, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StreamLearner(net(), SGD(0.1), replay=-1), "replay=-1 must be"),
        (lambda: StreamLearner(net(), SGD(0.1), batch=0), "batch=0 must be"),
        (
            lambda: StreamLearner(net(), SGD(0.1), batch=5).adapt(streams().support),
            "a stream of 12 examples is no multiple of batch=5",
        ),
        (
            lambda: StreamLearner(net(), SGD(0.1), batch=5)(streams()),
            "a stream of 12 examples is no multiple of batch=5",
        ),
    ],
)
def test_bad_settings_and_streams_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
