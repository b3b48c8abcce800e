"""The gradient in pixels and rates against central differences, and images that teach."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from metanotes import Batch, DatasetDistillation, Task, evaluate, meta_train
from metanotes.nets import mlp
from metanotes.theta import How, in_force
from tests.methods.teaching.differences import central_differences, vectors


def network(_: int = 0) -> nn.Module:
    """Draws its weights from the global generator, which follows the seed."""
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def half_frozen(_: int) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4).requires_grad_(False), nn.Linear(4, 3))


def learner_for(steps: int = 3, per_class: int = 2) -> DatasetDistillation:
    torch.manual_seed(0)
    learner = DatasetDistillation(
        network, 0.7, steps, classes=3, shape=(5,), per_class=per_class
    ).double()
    with torch.no_grad():
        learner.log_rates += torch.linspace(-0.5, 0.5, steps)
    return learner


def losses_of(learner: DatasetDistillation, tasks: Task) -> Tensor:
    """Of the same networks each time."""
    torch.manual_seed(3)
    return learner(tasks)


def plain_losses(learner: DatasetDistillation, tasks: Task) -> Tensor:
    """Equations (1) and (2), written out."""
    torch.manual_seed(3)
    nets = []
    for seed in torch.randint(2**31, (len(tasks.query.y),)).tolist():
        torch.manual_seed(seed)
        nets.append(network().double())
    values = []
    for net, x, y in zip(nets, *tasks.query, strict=True):
        theta = dict(net.named_parameters())
        for rate in learner.log_rates:
            outputs = functional_call(net, theta, (learner.images,))
            loss = F.cross_entropy(outputs, torch.tensor([0, 0, 1, 1, 2, 2]))
            g = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
            theta = {n: t - rate.exp() * d for (n, t), d in zip(theta.items(), g, strict=True)}
        values.append(F.cross_entropy(functional_call(net, theta, (x,)), y))
    return torch.stack(values)


def test_the_gradient_in_pixels_and_rates_is_that_of_central_differences() -> None:
    tasks, learner = vectors(T=2), learner_for()
    losses = losses_of(learner, tasks)
    torch.testing.assert_close(losses, plain_losses(learner, tasks))
    phi = [learner.images, learner.log_rates]
    gradients = torch.autograd.grad(losses.sum(), phi)
    for p, g in zip(phi, gradients, strict=True):
        right = central_differences(lambda: plain_losses(learner, tasks).sum(), p)
        torch.testing.assert_close(g, right, rtol=1e-6, atol=1e-9)
        assert g.abs().min() > 0


def test_all_networks_at_once_is_the_same() -> None:
    tasks, learner = vectors(), learner_for()
    results = []
    for how in (How(), How(at_once=True)):
        with in_force(how):
            losses = losses_of(learner, tasks)
            results.append([losses, *torch.autograd.grad(losses.sum(), learner.images)])
    torch.testing.assert_close(*results)


def test_phi_is_the_images_and_the_rates_and_networks_are_fresh() -> None:
    tasks, learner = vectors(), learner_for()
    assert {n for n, p in learner.named_parameters() if p.requires_grad} == {"images", "log_rates"}
    assert learner.rates.shape == (3,)
    assert (learner.rates > 0).all()
    assert learner.labels.tolist() == [0, 0, 1, 1, 2, 2]
    theta = learner.fresh(2)["0.weight"]
    assert not torch.equal(theta[0], theta[1])
    assert not torch.equal(learner(tasks), learner(tasks))


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    phi = []
    for parts in ((4,), (2, 4)):
        for iterations in parts:
            learner = learner_for()
            meta_train(
                learner,
                lambda T: vectors(T),
                iterations,
                3,
                checkpoint=tmp_path / f"{len(parts)}.pt",
                progress=False,
            )
        phi.append([learner.images, learner.log_rates])
    assert all(map(torch.equal, *phi))


def test_fewer_steps_are_the_first_ones() -> None:
    tasks, learner = vectors(), learner_for()
    theta = learner.fresh(2)
    with torch.no_grad():
        assert torch.equal(learner.taught(theta, 0)["0.weight"], theta["0.weight"])
        once = learner.taught(theta, 1)
    first = learner_for(steps=1)
    first.load_state_dict({**learner.state_dict(), "log_rates": learner.log_rates[:1]})
    torch.testing.assert_close(once, {n: t.detach() for n, t in first.taught(theta).items()})
    with pytest.raises(ValueError, match="steps=4, but rates were learned for 3"):
        learner.adapt(tasks.support, 4)


def test_ten_images_learn_to_teach_digits() -> None:
    x, y = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    x = x.float().view(-1, 1, 8, 8) / 16
    g = torch.Generator().manual_seed(0)

    def sample_from(first: int, last: int) -> Callable[[int], Task]:
        def sample(T: int) -> Task:
            rows = first + torch.randint(last - first, (T, 128), generator=g)
            return Task(*(Batch(x[rows], y[rows]),) * 2)

        return sample

    def draw(seed: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), mlp(64, 16, 10, seed=seed))

    torch.manual_seed(0)
    learner = DatasetDistillation(draw, 0.3, 3, classes=10, shape=(1, 8, 8))
    test = sample_from(1000, 1797)
    before = evaluate(learner, test, tasks=20).mean
    meta_train(learner, sample_from(0, 1000), 120, 4, meta_lr=0.05, progress=False)
    torch.manual_seed(1)
    after = evaluate(learner, test, tasks=20).mean
    assert before < 0.3
    assert after > 0.6
    assert evaluate(learner, test, tasks=20, steps=1).mean < after


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_class": 0}, "per_class=0 must be a whole number of at least 1"),
        ({"classes": 1}, "classes=1 must be a whole number of at least 2"),
        ({"classes": 4}, r"classes=4, but the networks .* outputs \[3\]: let them have 4"),
        ({"steps": 0}, "steps=0 must be a whole number of at least 1"),
        ({"inner_lr": -1.0}, "inner_lr=-1.0 must be a finite number above 0"),
        ({"draw": lambda _: mlp(5, 3)}, "draw= gave the same weights for the seeds 0 and 1"),
        ({"draw": lambda _: nn.Tanh()}, "draw= gave a Tanh that has no parameter to train"),
        ({"draw": lambda _: nn.BatchNorm1d(5)}, "running statistics"),
        ({"draw": half_frozen}, r"draw= gave a network whose 0.weight, 0.bias is frozen"),
    ],
)
def test_wrong_arguments_are_refused(settings: dict[str, object], message: str) -> None:
    good = {"draw": network, "inner_lr": 0.1, "steps": 2, "classes": 3, "shape": (5,)}
    with pytest.raises(ValueError, match=message):
        DatasetDistillation(**{**good, **settings})  # type: ignore[arg-type]


def test_what_draws_no_network_is_refused() -> None:
    with pytest.raises(TypeError, match="draw= gave a Tensor; it must give a module"):
        DatasetDistillation(lambda _: torch.zeros(3), 0.1, classes=3, shape=(5,))  # type: ignore
    with pytest.raises(TypeError, match="draw is a str; it must be a function"):
        DatasetDistillation("mlp", 0.1, classes=3, shape=(5,))  # type: ignore[arg-type]


def test_real_images_of_another_kind_are_refused() -> None:
    learner = learner_for()
    with pytest.raises(ValueError, match=r"query.x has images \[6\], .*shape=\(6,\)"):
        learner(vectors(features=6))
    with pytest.raises(ValueError, match=r"labels run from 0 to .*have 3 classes"):
        learner(vectors(M=20, classes=8))


def test_inputs_that_are_no_tensor_are_refused() -> None:
    x, y = vectors().query
    named = Batch({"pixels": x}, y)
    with pytest.raises(TypeError, match=r"query.x is a dict of 'pixels', .* tensor \[T, M, 5\]"):
        learner_for()(Task(named, named))


class Projecting(nn.Module):
    """Draws something that is no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("projection", torch.randn(5, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x @ self.projection).relu())


def test_buffers_that_are_drawn_with_the_network_are_refused() -> None:
    with pytest.raises(ValueError, match=r"buffers \['projection'\] differ"):
        DatasetDistillation(lambda _: Projecting(), 0.7, 1, classes=3, shape=(5,))


def test_networks_whose_statistics_are_frozen_stay_so() -> None:
    def frozen(_: int) -> nn.Module:
        return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).eval()

    learner = DatasetDistillation(frozen, 0.7, 1, classes=3, shape=(5,)).double().train()
    assert learner(vectors()).isfinite().all()
