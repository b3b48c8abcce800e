"""What a large phi needs: groups of tasks, graphs elsewhere, fewer bits; the same gradient each."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks

from metanotes import (
    ANIL,
    MAML,
    SGD,
    Batch,
    MetaSGD,
    PrototypicalNetwork,
    RelationNetwork,
    Reptile,
    Task,
    evaluate,
    meta_train,
    mse,
)
from metanotes.data import episodes, glyphs
from metanotes.engine import plan, plan_for
from metanotes.methods.comparison import map_relation
from metanotes.nets import conv4, mlp, resnet, token_transformer, transformer
from tests.plainly import (
    image_tasks,
    meta_gradient,
    recorded_at_once,
    recordings,
    relative_error,
    shaken,
    vector_tasks,
)

# ------------------------------------------------------------------------------ groups of tasks

LEARNERS = {
    "vectors": lambda **how: MAML(shaken(mlp(2, 6, 1)), 0.1, 2, loss=mse, **how),
    "images": lambda **how: MAML(shaken(conv4(5, channels=4)), 0.1, 2, **how),
    "images, checkpoint": lambda **how: MAML(
        shaken(conv4(5, channels=4)), 0.1, 2, checkpoint=True, **how
    ),
    "a body that works once": lambda **how: ANIL(shaken(conv4(5, channels=4)), 0.1, 2, **how),
    "prototypes": lambda **how: PrototypicalNetwork(shaken(conv4(None, channels=4)), 5, **how),
}


def tasks_for(name: str) -> Task:
    return vector_tasks() if name == "vectors" else image_tasks()


@pytest.mark.parametrize("group", [1, 2, 100])
@pytest.mark.parametrize("name", LEARNERS)
def test_the_gradients_of_groups_add_up_to_that_of_all(name: str, group: int) -> None:
    tasks = tasks_for(name)
    learner, grouped = LEARNERS[name](), LEARNERS[name](group=group)
    torch.testing.assert_close(grouped(tasks), learner(tasks), rtol=1e-10, atol=0)
    assert relative_error(meta_gradient(grouped, tasks), meta_gradient(learner, tasks)) < 1e-9
    assert max(len(part.support.x) for part in plan_for(grouped, tasks).groups(tasks)) <= group
    weights = torch.arange(1.0, len(tasks.support.x) + 1).double()
    phi = list(learner.parameters()), list(grouped.parameters())
    right = torch.autograd.grad(weights @ learner(tasks), phi[0])
    assert relative_error(torch.autograd.grad(weights @ grouped(tasks), phi[1]), right) < 1e-9


def test_what_is_fast_on_a_processor_is_never_exceeded() -> None:
    tasks = episodes(glyphs("background"), ways=5, shots=1, queries=15, seed=0)(64)
    usual = plan_for(MAML(conv4(5), 0.4), tasks).group
    assert plan_for(MAML(conv4(5), 0.4, group=64), tasks).group == usual < 64
    assert plan_for(MAML(conv4(5), 0.4, group=1), tasks).group == 1


def test_what_is_done_in_groups_is_not_recorded() -> None:
    learner, tasks = LEARNERS["vectors"](group=3, record=True), vector_tasks()
    right = meta_gradient(LEARNERS["vectors"](), tasks)
    with recorded_at_once():
        for _ in range(3):
            assert relative_error(meta_gradient(learner, tasks), right) < 1e-9
    assert not recordings(learner)


class Alive:
    """Bytes that graphs keep for the backward pass, now and at most."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def pack(self, tensor: Tensor) -> Any:
        class Kept:
            value = tensor

        kept = Kept()
        self.now += tensor.nbytes
        self.most = max(self.most, self.now)
        weakref.finalize(kept, self.drop, tensor.nbytes)
        return kept

    def drop(self, size: int) -> None:
        self.now -= size

    def of(self, learner: nn.Module, tasks: Task) -> int:
        learner(tasks)  # the plan is made
        self.most = self.now
        with saved_tensors_hooks(self.pack, lambda kept: kept.value):
            learner(tasks).mean().backward()
        return self.most


def test_the_graph_of_one_group_is_alive_at_a_time() -> None:
    tasks = vector_tasks(tasks=8)
    at_once, in_two, alone = (
        Alive().of(LEARNERS["vectors"](group=group), tasks) for group in (None, 4, 1)
    )
    assert 1.5 * in_two < at_once
    assert 3 * alone < at_once


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group": 0}, "group=0 must be a whole number of at least 1"),
        ({"group": 2.5}, "group=2.5"),
        ({"group": 2, "keep_graph": True}, "keep_graph=True keeps one graph .* group=2"),
    ],
)
def test_a_group_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LEARNERS["vectors"](**settings)


def test_an_evaluation_in_groups_is_the_same() -> None:
    def sample(tasks: int) -> Task:
        return image_tasks(tasks)

    scores = [evaluate(LEARNERS["images"](group=g), sample, 20).values for g in (None, 3)]
    assert torch.equal(*scores)


# --------------------------------------------------------------------------- a graph elsewhere


@pytest.mark.parametrize("name", LEARNERS)
def test_a_graph_that_is_kept_elsewhere_gives_the_same_gradient(name: str) -> None:
    tasks, learner = tasks_for(name), LEARNERS[name]()
    right = meta_gradient(learner, tasks)
    with save_on_cpu():
        assert relative_error(meta_gradient(learner, tasks), right) < 1e-12


# -------------------------------------------------------------------------------- fewer bits


def in_float32(tasks: Task) -> Task:
    return Task(*(Batch(b.x.float() if b.x.is_floating_point() else b.x, b.y) for b in tasks))


def small_images() -> Task:
    return in_float32(image_tasks(queries=10))


def sentences() -> Task:
    g = torch.Generator().manual_seed(0)
    x, xq = (torch.randint(1, 30, (3, n, 6), generator=g) for n in (10, 5))
    y, yq = (torch.arange(5).repeat(3, n // 5) for n in (10, 5))
    return Task(Batch(x, y), Batch(xq, yq))


def group_norm() -> nn.Sequential:
    layers = [nn.Conv2d(1, 6, 3, 4), nn.GroupNorm(3, 6), nn.ELU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(6 * 49, 5))


def net(*sizes: int, **settings: Any) -> nn.Module:
    return shaken(conv4(5, 8, **settings)).float()


CASTS = {
    "conv4": lambda: MAML(net(), 0.1, 2),
    "conv4, one graph": lambda: MAML(net(), 0.1, 2, keep_graph=True),
    "conv4, max-pooling": lambda: MAML(net(pool="max"), 0.1, 2),
    "conv4, checkpoint": lambda: MAML(net(), 0.1, 2, checkpoint=True),
    "conv4, in groups": lambda: MAML(net(), 0.1, 2, group=1),
    "conv4, first order": lambda: MAML(net(), 0.1, 2, first_order=True),
    "group normalization": lambda: MAML(shaken(group_norm()).float(), 0.1, 2),
    "residual": lambda: MAML(shaken(resnet(5, (6, 8), convolutions=2)).float(), 0.05, 2),
    "Meta-SGD": lambda: MetaSGD(net(), 0.1, 2),
    "ANIL": lambda: ANIL(net(), 0.1, 2),
    "Reptile": lambda: Reptile(net(), SGD(0.1), 2),
    "prototypes": lambda: PrototypicalNetwork(shaken(conv4(None, 8)).float(), 5),
    "relations": lambda: RelationNetwork(
        conv4(None, channels=8, halvings=2)[:-1], map_relation(8), ways=5
    ),
    "transformer": lambda: MAML(token_transformer(5, 30, 6, 16, 2, 1), 0.1, 2),
}


@pytest.mark.parametrize("name", CASTS)
def test_automatic_casts_cost_digits_and_nothing_else(name: str) -> None:
    """Our gradient is as far from the exact one as torch's own under its casts, or nearer."""
    tasks = sentences() if name == "transformer" else small_images()
    learner = CASTS[name]()
    exact, losses = meta_gradient(learner, tasks), learner(tasks)
    with torch.autocast("cpu", torch.bfloat16):
        rough, rough_losses = meta_gradient(learner, tasks), learner(tasks)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plan, "_candidates", lambda *settings: [])
            plain = meta_gradient(CASTS[name](), tasks)  # torch's own casts, task by task
    assert all(g.dtype == torch.float32 for g in rough)
    torch.testing.assert_close(rough_losses.float(), losses, rtol=0.05, atol=0.02)
    allowed = 1.5 * relative_error(plain, exact) + 0.01
    assert 1e-5 < relative_error(rough, exact) < allowed
    assert relative_error(meta_gradient(learner, tasks), exact) < 1e-5


def test_layers_of_many_tasks_are_taken_under_casts_too() -> None:
    learner = CASTS["conv4"]()
    with torch.autocast("cpu", torch.bfloat16):
        plan = plan_for(learner, small_images())
    assert plan.how.at_once
    assert plan.how.layers == plan_for(learner, small_images()).how.layers


def test_training_and_evaluation_under_casts() -> None:
    sample = episodes(glyphs("background"), ways=5, shots=1, queries=5, seed=0)
    learner = MAML(conv4(5, 8), 0.4)
    exact = evaluate(learner, sample, 30).values
    with torch.autocast("cpu", torch.bfloat16):
        history = meta_train(learner, sample, 3, 4, progress=False)
        assert all(map(torch.isfinite, torch.tensor(history.losses)))
    again = MAML(conv4(5, 8), 0.4)
    with torch.autocast("cpu", torch.bfloat16):
        rough = evaluate(again, sample, 30).values
    assert float((rough - exact).abs().mean()) < 0.1


def test_an_image_transformer_under_casts() -> None:
    model = transformer(3, 2, 8, 2, 1, positions=6).float()
    x = torch.randn(3, 4, 6, 3, generator=torch.Generator().manual_seed(0))
    y = torch.arange(2).repeat(3, 2)

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x)[:, -1]

    learner, tasks = MAML(Last(), 0.1, 2), Task(Batch(x, y), Batch(x.flip(1), y.flip(1)))
    exact = meta_gradient(learner, tasks)
    with torch.autocast("cpu", torch.bfloat16):
        assert relative_error(meta_gradient(learner, tasks), exact) < 0.1
