"""What all learners that compare do alike: engine, evaluation, training, and what they refuse."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from metanotes import (
    Batch,
    LogisticNetwork,
    MatchingNetwork,
    PrototypicalNetwork,
    RelationNetwork,
    SiameseNetwork,
    Task,
    cross_entropy,
    evaluate,
    meta_train,
)
from metanotes.data import episodes, glyphs
from metanotes.methods.comparison import FullContext, feature_relation, map_relation
from metanotes.methods.comparison.features import Comparing
from metanotes.nets import conv4, mlp, resnet, vit
from tests.methods.comparison.compared import body, map_body, uneven_tasks
from tests.plainly import (
    image_tasks,
    meta_gradient,
    recorded_at_once,
    recordings,
    relative_error,
    shaken,
)

Maker = Callable[..., Comparing]  # from a body, its features and ways


def _matching_in_context(body: nn.Module, features: int, ways: int, **options: bool) -> Comparing:
    context = FullContext(features, steps=2)
    return MatchingNetwork(body, ways, full_context=context, **options)


LEARNERS: dict[str, Maker] = {
    "prototypical": lambda body, features, ways, **o: PrototypicalNetwork(body, ways, **o),
    "logistic": lambda body, features, ways, **o: LogisticNetwork(body, ways, steps=20, **o),
    "matching": lambda body, features, ways, **o: MatchingNetwork(
        body, ways, learn_temperature=True, **o
    ),
    "matching in full context": _matching_in_context,
    "relation": lambda body, features, ways, **o: RelationNetwork(
        body, feature_relation(features, 8), ways, loss=cross_entropy, **o
    ),
    "siamese": lambda body, features, ways, **o: SiameseNetwork(body, ways, features=features, **o),
}
each_learner = pytest.mark.parametrize("make", LEARNERS.values(), ids=LEARNERS)


# ------------------------------------------------------------------------------- the engine


@each_learner
def test_recorded_operations_give_the_same_numbers(make: Maker) -> None:
    net = shaken(nn.Sequential(nn.Flatten(), mlp(144, 8, 6)))
    tasks = image_tasks(tasks=4, size=12)
    plain = make(net, 6, 5).double()
    recorded = make(net, 6, 5, record=True).double()
    recorded.load_state_dict(plain.state_dict())
    with recorded_at_once():
        for _ in range(4):
            ours = meta_gradient(recorded, tasks)
    assert recordings(recorded)
    assert relative_error(ours, meta_gradient(plain, tasks)) < 1e-12


BODIES: dict[str, Callable[[], tuple[nn.Module, int]]] = {
    "conv4": lambda: (conv4(None, channels=4), 16),
    "max-pooling": lambda: (conv4(None, channels=4, pool="max"), 4),
    "residual": lambda: (resnet(None, widths=(4, 6)), 6),
    "transformer": lambda: (vit(None, width=8, heads=2, layers=1, patch=7), 8),
}


@each_learner
@pytest.mark.parametrize("net", BODIES.values(), ids=BODIES)
def test_any_body_will_do(net: Callable[[], tuple[nn.Module, int]], make: Maker) -> None:
    model, features = net()
    learner, tasks = make(shaken(model), features, 5).double(), image_tasks()
    losses = learner(tasks)
    torch.testing.assert_close(losses, learner.query_losses(tasks), rtol=1e-9, atol=0)
    losses.mean().backward()
    assert all(p.grad is not None for p in learner.parameters())


@each_learner
def test_a_body_may_keep_running_statistics(make: Maker) -> None:
    learner = make(conv4(None, channels=4, running_statistics=True), 16, 5).double()
    tasks = image_tasks(tasks=2)
    learner(tasks).mean().backward()
    assert learner.body[1].num_batches_tracked == 4  # support and query of two tasks
    one, other = (evaluate(learner, lambda n: tasks, 2, transductive=t) for t in (True, False))
    assert torch.equal(one.values, other.values)  # in eval() nobody sees the batch


@each_learner
def test_what_is_trained_on_some_ways_serves_others(make: Maker) -> None:
    net, tasks = shaken(nn.Sequential(nn.Flatten(), mlp(144, 6))), image_tasks(size=12)
    learner = make(net, 6, 3).double()
    other = learner.with_ways(5)
    assert (learner.ways, other.ways) == (3, 5)
    fresh = make(net, 6, 5).double()
    torch.testing.assert_close(other(tasks), fresh(tasks))
    assert all(p is q for p, q in zip(learner.parameters(), other.parameters(), strict=True))
    other(tasks).mean().backward()
    assert all(p.grad is not None for p in learner.parameters())
    with pytest.raises(ValueError, match="ways=1 must be"):
        learner.with_ways(1)


def test_inputs_may_be_dicts() -> None:
    class Sum(nn.Module):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return left + right

    x, y = torch.rand(3, 4, 6), torch.tensor([[0, 1, 0, 1]] * 3)
    inputs = {"left": x, "right": 2 * x}
    learner = PrototypicalNetwork(Sum(), ways=2)
    plain = PrototypicalNetwork(nn.Identity(), ways=2)
    torch.testing.assert_close(
        learner(Task(Batch(inputs, y), Batch(inputs, y))),
        plain(Task(Batch(3 * x, y), Batch(3 * x, y))),
    )


# -------------------------------------------------------------------------------- evaluation


def with_maps() -> Comparing:
    """A relation module that normalises over the pairs."""
    return RelationNetwork(map_body(), shaken(map_relation(4, 5)), ways=3)


EVALUATED = {**{n: partial(m, features=6, ways=3) for n, m in LEARNERS.items()}, "maps": None}


@pytest.mark.parametrize("transductive", [True, False])
@pytest.mark.parametrize("make", EVALUATED.values(), ids=EVALUATED)
def test_evaluation_normalises_the_batches_that_it_says(
    make: Maker | None, transductive: bool
) -> None:
    tasks = uneven_tasks()
    learner = (with_maps() if make is None else make(body())).double()

    def metric(outputs: Tensor, y: Tensor) -> Tensor:
        return outputs.square().mean()

    score = evaluate(learner, lambda n: tasks, 3, transductive=transductive, metric=metric)
    for n, value in enumerate(score.values):
        support = Batch(*(t[n : n + 1] for t in tasks.support))
        adapted, xq = learner.adapt(support), tasks.query.x[n : n + 1]
        if transductive:
            outputs = learner.predict(adapted, xq)
        else:
            beside = [torch.cat([support.x, x[None, None]], 1) for x in xq[0]]
            outputs = torch.stack([learner.predict(adapted, x)[:, -1] for x in beside], 1)
        torch.testing.assert_close(value, metric(outputs, xq).detach(), rtol=1e-9, atol=0)


# ---------------------------------------------------------------------------------- training


@each_learner
def test_it_learns_and_goes_on_from_a_checkpoint(make: Maker, tmp_path: Path) -> None:
    images = glyphs("background")
    small = Batch(nn.functional.avg_pool2d(images.x.float() / 255, 4), images.y)

    def trained(*until: int) -> tuple[Comparing, list[float]]:
        losses: list[float] = []
        for iterations in until:  # each in a new process, as it were
            learner = make(nn.Sequential(nn.Flatten(), mlp(49, 32, 16)), 16, 5)
            sample = episodes(small, ways=5, shots=2, queries=3, seed=0)
            file = None if len(until) == 1 else tmp_path / "run.pt"
            losses = meta_train(
                learner, sample, iterations, 4, meta_lr=0.01, checkpoint=file, progress=False
            ).losses
        return learner, losses

    whole, losses = trained(80)
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])
    held_out = episodes(small, ways=5, shots=2, queries=3, seed=1)
    assert evaluate(whole, held_out, 50).mean > 0.3  # chance is 0.2
    resumed, _ = trained(40, 80)
    for p, q in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(p, q)


# ---------------------------------------------------------------------------- what is refused


def on_pixels(make: Maker, ways: int) -> Comparing:
    return make(nn.Sequential(nn.Flatten(), mlp(144, 6)), 6, ways).double()


@each_learner
def test_a_class_without_a_support_example_is_named_before_any_work(make: Maker) -> None:
    learner, tasks = on_pixels(make, 5), image_tasks(tasks=4, size=12)
    learner(tasks)  # so that the shape is known
    y = tasks.support.y.clone()
    y[2][y[2] == 3] = 1
    bad = Task(Batch(tasks.support.x, y), tasks.query)
    named = pytest.raises(ValueError, match=r"class 3 has no example .* task 2, .* ways=5")
    worked: list[nn.Module] = []
    learner.body.register_forward_hook(lambda module, *_: worked.append(module))
    with named:
        learner.adapt(bad.support)
    with named:
        learner(bad)
    assert not worked
    with named:
        evaluate(learner, lambda n: bad, 4)


@each_learner
def test_labels_outside_the_ways_are_refused(make: Maker) -> None:
    learner, tasks = on_pixels(make, 3), image_tasks(size=12)
    with pytest.raises(ValueError, match=r"labels run from 0 to 4, but .* 3 classes"):
        learner.adapt(tasks.support)
    three = tasks.support.y % 3
    with pytest.raises(ValueError, match=r"labels run from 0 to 4, but .* 3 classes"):
        learner(Task(Batch(tasks.support.x, three), tasks.query))
    with pytest.raises(ValueError, match=r"support\.y is torch\.float64: a class is an integer"):
        learner.adapt(Batch(tasks.support.x, three.double()))


@each_learner
def test_the_form_of_tasks_is_checked_first(make: Maker) -> None:
    learner, (support, query) = make(nn.Flatten(), 144, 5).double(), image_tasks(size=12)
    short = Batch(support.x[:, :4], support.y)
    with pytest.raises(ValueError, match="differ in their number of examples"):
        learner(Task(short, query))
