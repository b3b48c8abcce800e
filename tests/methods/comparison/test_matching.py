"""Matching networks: a plain loop, one shot as prototypes, and the bound of the bare cosine."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanotes import Batch, MatchingNetwork, PrototypicalNetwork, Task
from metanotes.methods.comparison import FullContext
from tests.methods.comparison.compared import assert_losses_and_gradient, body, uneven_tasks
from tests.plainly import image_tasks, in_groups_of, shaken


def attention(f: Tensor, g: Tensor, similarity: str, temperature: Tensor | float) -> Tensor:
    """a(x, x_i) for one x."""
    if similarity == "cosine":
        c = torch.stack([f @ g_i / (f.norm() * g_i.norm()) for g_i in g])
    else:
        c = torch.stack([-(f - g_i) @ (f - g_i) for g_i in g])
    weights = (c / temperature).exp()
    return weights / weights.sum()


def in_context(context: FullContext, z: Tensor, zq: Tensor) -> tuple[Tensor, Tensor]:
    """f of the queries and g of the support set of one task, by LSTM cells."""
    size = z.shape[1]
    cells = []
    for suffix in ("", "_reverse"):
        cell = nn.LSTMCell(size, size).double()
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            _put(cell, name, getattr(context.both_ways, f"{name}_l0{suffix}"))
        cells.append(cell)
    there, back = ([None] * len(z) for _ in range(2))
    for cell, h, order in zip(
        cells, (there, back), (range(len(z)), reversed(range(len(z)))), strict=True
    ):
        state = None
        for i in order:
            state = cell(z[i : i + 1], state)
            h[i] = state[0][0]
    g = z + torch.stack(there) + torch.stack(back)
    cell = nn.LSTMCell(2 * size, size).double()
    _put(cell, "weight_ih", context.gates.weight[:, : 2 * size])
    _put(cell, "weight_hh", context.gates.weight[:, 2 * size :])
    _put(cell, "bias_ih", context.gates.bias)
    _put(cell, "bias_hh", torch.zeros(4 * size, dtype=torch.float64))
    f = []
    for x in zq:
        h, c, r = (torch.zeros(size, dtype=torch.float64) for _ in range(3))
        for _ in range(context.steps):
            h, c = cell(torch.cat([x, r]), (h, c))
            h = h + x
            weights = torch.stack([h @ g_i for g_i in g]).exp()
            r = sum(w * g_i for w, g_i in zip(weights / weights.sum(), g, strict=True))
        f.append(h)
    return torch.stack(f), g


def _put(cell: nn.Module, name: str, tensor: Tensor) -> None:
    """In place of a parameter, so that gradients pass."""
    del cell._parameters[name]
    setattr(cell, name, tensor)


OPTIONS = {
    "cosine": {},
    "bare cosine": {"temperature": 1.0},
    "squared": {"similarity": "squared"},
    "learned temperature": {"temperature": 0.3, "learn_temperature": True},
    "full context": {"full_context": lambda: shaken(FullContext(6, steps=3))},
}


@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_losses_and_gradient_are_those_of_a_plain_loop(options, size):
    options = {name: value() if callable(value) else value for name, value in options.items()}
    learner, tasks = MatchingNetwork(body(), ways=3, **options).double(), uneven_tasks()
    plain = []
    for x, y, xq, yq in zip(*tasks.support, *tasks.query, strict=True):
        f, g = learner.body(xq), learner.body(x)
        if learner.full_context is not None:
            f, g = in_context(learner.full_context, g, f)
        p = []
        for f_m in f:
            a = attention(f_m, g, learner.similarity, learner.temperature)
            p.append(torch.stack([a[y == k].sum() for k in range(3)]))
        plain.append(-torch.stack(p)[range(len(yq)), yq].log().mean())
    with in_groups_of(size):
        assert_losses_and_gradient(learner, tasks, plain)


def test_with_one_shot_and_squared_distances_it_is_a_prototypical_network():
    tasks, net = image_tasks(size=12), nn.Sequential(nn.Flatten(), shaken(nn.Linear(144, 6)))
    matching = MatchingNetwork(net, ways=5, similarity="squared")
    prototypical = PrototypicalNetwork(net, ways=5)
    for ours, theirs in zip(
        matching.predict(matching.adapt(tasks.support), tasks.query.x),
        prototypical.predict(prototypical.adapt(tasks.support), tasks.query.x),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(matching(tasks), prototypical(tasks), rtol=1e-12, atol=0)


def test_with_more_shots_it_is_another_learner():
    tasks, net = uneven_tasks(), body()
    matching = MatchingNetwork(net, ways=3, similarity="squared")
    assert (matching(tasks) - PrototypicalNetwork(net, ways=3)(tasks)).abs().min() > 1e-3


@pytest.mark.parametrize(("temperature", "most"), [(1.0, 0.2800), (0.1, 1.0)])
def test_a_bare_cosine_gives_no_class_of_twenty_more_than_28_percent(temperature, most):
    # The best features that there are: the query's class as it is, all others its opposite.
    z = torch.tensor([[1.0, 0.0]] + 19 * [[-1.0, 0.0]], dtype=torch.float64)
    query = Batch(z[None, :1], torch.zeros(1, 1, dtype=torch.long))
    tasks = Task(Batch(z[None], torch.arange(20)[None]), query)
    learner = MatchingNetwork(nn.Identity(), ways=20, temperature=temperature)
    outputs = learner.predict(learner.adapt(tasks.support), query.x)
    assert float(outputs.softmax(2).max()) == pytest.approx(most, abs=1e-4)
    exact = 1 / (1 + 19 * math.exp(-2 / temperature))
    assert float(outputs.softmax(2).max()) == pytest.approx(exact, rel=1e-12)
    assert float(learner(tasks)) == pytest.approx(-math.log(exact), rel=1e-9)
    orthogonal = Batch(torch.eye(20, dtype=torch.float64)[None], tasks.support.y)
    best = learner.predict(learner.adapt(orthogonal), orthogonal.x[:, :1])
    after_relu = 1 / (1 + 19 * math.exp(-1 / temperature))  # 12.5 % of a bare cosine
    assert float(best.softmax(2).max()) == pytest.approx(after_relu, rel=1e-12)
    for seed in range(20):  # and no other features do better
        g = torch.Generator().manual_seed(seed)
        x = torch.randn(1, 21, 8, generator=g, dtype=torch.float64)
        adapted = learner.adapt(Batch(x[:, :20], tasks.support.y))
        assert learner.predict(adapted, x[:, 20:]).softmax(2).max() <= exact + 1e-12
        adapted = learner.adapt(Batch(x[:, :20].relu(), tasks.support.y))
        assert learner.predict(adapted, x[:, 20:].relu()).softmax(2).max() <= after_relu + 1e-12


def test_a_learned_temperature_starts_where_it_is_told_and_is_a_part_of_phi():
    learner = MatchingNetwork(nn.Flatten(), ways=5, temperature=0.25, learn_temperature=True)
    assert [name for name, _ in learner.named_parameters()] == ["log_temperature"]
    assert float(learner.temperature.detach()) == pytest.approx(0.25)
    assert not list(MatchingNetwork(nn.Flatten(), ways=5, temperature=0.25).parameters())


def test_the_scale_of_the_features_does_not_matter_to_cosines():
    tasks, learner = image_tasks(size=12), MatchingNetwork(nn.Flatten(), ways=5)
    longer = Task(Batch(3 * tasks.support.x, tasks.support.y), tasks.query)
    torch.testing.assert_close(learner(longer), learner(tasks))


def test_full_context_sees_the_other_support_examples_and_no_other_query():
    context, g = shaken(FullContext(6, steps=3)), torch.Generator().manual_seed(1)
    z, zq = (torch.randn(2, n, 6, generator=g, dtype=torch.float64) for n in (4, 5))
    other = torch.cat([z[:, :3], z[:, 3:] + 1], 1)
    assert (context.g(other)[:, 0] - context.g(z)[:, 0]).abs().min() > 1e-9
    alone = context.f(zq[:, 2:3], context.g(z))
    torch.testing.assert_close(context.f(zq, context.g(z))[:, 2:3], alone, rtol=1e-12, atol=0)
    assert (context.f(zq, context.g(other)) - context.f(zq, context.g(z))).abs().min() > 1e-9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"similarity": "dot"}, "similarity='dot' must be"),
        ({"temperature": 0}, "temperature=0 must be a finite number above 0"),
        ({"ways": 1}, "ways=1 must be a whole number of at least 2"),
        ({"shots": 3}, "takes no argument shots"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        MatchingNetwork(nn.Flatten(), **{"ways": 5, **options})
    with pytest.raises(ValueError, match="steps=0 must be"):
        FullContext(6, steps=0)


def test_one_vote_an_example_gives_more_votes_to_a_larger_class():
    support = Batch(torch.ones(1, 4, 2), torch.tensor([[0, 0, 0, 1]]))
    learner = MatchingNetwork(nn.Identity(), ways=2)
    p = learner.predict(learner.adapt(support), torch.ones(1, 1, 2)).softmax(2)
    torch.testing.assert_close(p, torch.tensor([[[0.75, 0.25]]]))
    assert torch.isfinite(F.cross_entropy(p[0], torch.tensor([1])))
