"""Augmentation: its maps pixel by pixel, and its gradient against central differences."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from metanotes import Batch, LearnedAugmentation, Task, meta_train
from metanotes.methods.datapolicy import AffineAugmentation
from tests.methods.datapolicy.minibatches import central_differences, image_minibatches, net


def at(image, row, column):
    """Bilinear, zero outside; pixel centres are whole numbers."""
    value = 0.0
    for r in (math.floor(row), math.floor(row) + 1):
        for c in (math.floor(column), math.floor(column) + 1):
            if 0 <= r < image.shape[0] and 0 <= c < image.shape[1]:
                value += (1 - abs(row - r)) * (1 - abs(column - c)) * float(image[r, c])
    return value


@pytest.mark.parametrize(
    ("parts", "angle", "right", "down", "scale"),
    [(["turn"], 30, 0, 0, 0), (["shift"], 0, 0.2, 0.1, 0), (["scale"], 0, 0, 0, 0.3),
     (["turn", "shift", "scale"], 30, 0.2, 0.1, 0.3)],
)  # fmt: skip
def test_an_image_is_moved_as_in_pixels(monkeypatch, parts, angle, right, down, scale):
    """On an image that is no square, where angles are easily wrong."""
    u = torch.tensor([[1.0, 1.0, 0.5, 1.0]]).double()
    monkeypatch.setattr(torch, "rand", lambda *size, **_: (u + 1) / 2)
    image = torch.randn(6, 9, generator=torch.Generator().manual_seed(0)).double()
    augment = AffineAugmentation(turn=30, shift=0.2, scale=0.3, subpolicies=[parts]).double()
    ours = augment(image[None, None])[0, 0]
    a, z, middle = math.radians(angle), math.exp(scale), (2.5, 4.0)
    for r in range(6):
        for c in range(9):
            y, x = r - middle[0], c - middle[1]
            source_x = (math.cos(a) * x - math.sin(a) * y) / z + right * 9
            source_y = (math.sin(a) * x + math.cos(a) * y) / z + down * 6
            expected = at(image, source_y + middle[0], source_x + middle[1])
            assert float(ours[r, c].detach()) == pytest.approx(expected, abs=1e-6)


def test_draws_keep_within_the_range():
    augment = AffineAugmentation(turn=40, subpolicies=[["turn"]])
    x = torch.zeros(2000, 1, 41, 41)
    x[:, 0, 20, 36] = 1.0  # a dot to the right of the middle
    moved = augment(x).detach()[:, 0]
    rows, columns = torch.meshgrid(torch.arange(41.0) - 20, torch.arange(41.0) - 20, indexing="ij")
    mass = moved.sum((1, 2))
    angles = torch.atan2((moved * rows).sum((1, 2)) / mass, (moved * columns).sum((1, 2)) / mass)
    degrees = angles * 180 / math.pi
    assert 38 < degrees.max() < 41
    assert -41 < degrees.min() < -38
    assert degrees.std() == pytest.approx(40 / 3**0.5, rel=0.1)


def learner_for(tasks, **settings):
    model = net(3)
    model(tasks.support.x[0])
    policy = AffineAugmentation(turn=12.0, shift=0.07, scale=0.11, **settings).double()
    return LearnedAugmentation(model, 0.9, policy)


def plain_losses(learner, tasks):
    """Equations (1) and (2) of the step ahead, written out, with the same draws every time."""
    torch.manual_seed(0)
    model = learner.model
    names, theta = zip(*model.named_parameters(), strict=True)
    values, altered = [], []
    for x in tasks.support.x:
        altered.append(learner.policy(x))
    for x, y, x_val, y_val in zip(altered, tasks.support.y, *tasks.query, strict=True):
        g = torch.autograd.grad(F.cross_entropy(model(x), y), theta, create_graph=True)
        moved = {n: p - learner.inner_lr * d for n, p, d in zip(names, theta, g, strict=True)}
        values.append(F.cross_entropy(functional_call(model, moved, (x_val,)), y_val))
    return torch.stack(values)


@pytest.mark.parametrize(
    "settings", [{}, {"subpolicies": [("turn",), ("shift", "scale"), ()], "temperature": 0.8}]
)
def test_the_meta_gradient_is_that_of_central_differences(settings):
    tasks = image_minibatches()
    learner = learner_for(tasks, **settings)
    torch.manual_seed(0)
    losses = learner(tasks)
    torch.testing.assert_close(losses, plain_losses(learner, tasks))
    phi = list(learner.policy.parameters())
    assert len(phi) == (2 if settings else 1)
    for p, g in zip(phi, torch.autograd.grad(losses.sum(), phi), strict=True):
        right = central_differences(lambda: plain_losses(learner, tasks).sum(), p, h=1e-6)
        torch.testing.assert_close(g, right, rtol=1e-5, atol=1e-8)
        assert g.abs().max() > 1e-5


def test_the_model_trains_on_drawn_choices_and_the_policy_is_constant():
    tasks = image_minibatches()
    learner = learner_for(tasks, subpolicies=[("turn",), ()])
    drawn = []
    learner.policy.register_forward_hook(lambda *_: drawn.append(torch.is_grad_enabled()))
    for name, losses in learner.turns(tasks):
        learner.zero_grad()
        losses.sum().backward()
        moved = learner.policy if name == "policy" else learner.model
        still = learner.model if name == "policy" else learner.policy
        assert all(p.grad is not None for p in moved.parameters())
        assert all(p.grad is None for p in still.parameters())
    assert drawn == [True, True, False, False]


def test_choices_are_relaxed_where_they_are_differentiated_and_drawn_elsewhere():
    augment = AffineAugmentation(subpolicies=[("turn",), ("shift",), ()])
    with torch.no_grad():
        augment.logits.copy_(torch.tensor([2.0, 0.0, 1.0]))
    relaxed = augment.choices(50)
    assert ((relaxed > 0) & (relaxed < 1)).any()
    with torch.no_grad():
        drawn = augment.choices(20_000)
    assert ((drawn == 0) | (drawn == 1)).all()
    torch.testing.assert_close(drawn.mean(0), augment.probabilities().detach(), rtol=0, atol=0.02)
    drawn = augment.requires_grad_(False).choices(50)
    assert ((drawn == 0) | (drawn == 1)).all()


def test_it_learns_to_turn_images_whose_like_are_turned():
    """Bars that stand upright in training and lean up to 60 degrees where they are judged."""
    g = torch.Generator().manual_seed(0)
    bars = torch.zeros(2, 1, 15, 15)
    bars[0, 0, 1:14, 6:9] = 1.0
    bars[1, 0, 2:8, 6:9] = 1.0
    bars[1, 0, 11:13, 6:9] = 1.0
    leaning = AffineAugmentation(turn=60, subpolicies=[["turn"]]).requires_grad_(False)

    def sample(T):
        y, y_val = (torch.randint(2, (T, n), generator=g) for n in (32, 64))
        x_val = leaning(bars[y_val].flatten(0, 1)).unflatten(0, y_val.shape)
        return Task(Batch(bars[y], y), Batch(x_val, y_val))

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(225, 32), nn.ReLU(), nn.Linear(32, 2))
    learner = LearnedAugmentation(model, 0.3, AffineAugmentation(turn=5, subpolicies=[["turn"]]))
    optimizers = {
        "policy": torch.optim.Adam(learner.policy.parameters(), lr=0.05),
        "model": torch.optim.SGD(model.parameters(), lr=0.3),
    }
    meta_train(learner, sample, 100, tasks=1, optimizer=optimizers, progress=False)
    turn, shift, scale = learner.policy.magnitudes()[0].tolist()
    assert turn > 15
    assert (shift, scale) == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"turn": 0}, "turn=0 must be a finite number above 0"),
        ({"shift": -0.1}, "shift=-0.1"),
        ({"scale": math.nan}, "scale=nan"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"subpolicies": []}, r"subpolicies=\[\] has none"),
        ({"subpolicies": [["shear"]]}, "some of turn, shift, scale"),
        ({"subpolicies": ["turn"]}, "'turn': each is a list"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AffineAugmentation(**arguments)


def test_what_are_no_images_is_refused():
    augment = AffineAugmentation()
    with pytest.raises(ValueError, match=r"x is \[5, 64\]; augmentation needs images"):
        augment(torch.zeros(5, 64))
    with pytest.raises(ValueError, match=r"of torch\.uint8"):
        augment(torch.zeros(5, 1, 8, 8, dtype=torch.uint8))


def test_a_policy_that_changes_the_shape_is_refused():
    tasks = image_minibatches()
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 3)).double()
    with pytest.raises(ValueError, match=r"policy gave \[6, 72\] for images"):
        LearnedAugmentation(model, 0.1, nn.Flatten())(tasks)


def test_an_empty_validation_set_is_refused():
    (x, y), (x_val, y_val) = image_minibatches()
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 3)).double()
    with pytest.raises(ValueError, match="empty validation set"):
        LearnedAugmentation(model, 0.1)(Task(Batch(x, y), Batch(x_val[:, :0], y_val[:, :0])))


def test_a_checkpoint_goes_on_with_a_learner_that_has_learned(tmp_path):
    tasks = image_minibatches()

    def trained(legs, path):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(72, 3)).double()
        learner = LearnedAugmentation(model, 0.1, AffineAugmentation(turn=20).double())
        optimizers = {
            "policy": torch.optim.Adam(learner.policy.parameters(), lr=0.1),
            "model": torch.optim.SGD(model.parameters(), lr=0.1),
        }
        how = {"tasks": 1, "optimizer": optimizers, "checkpoint": path, "progress": False}
        for until in legs:
            meta_train(learner, lambda T: tasks, until, **how)
        return learner

    whole, legs = trained([5], tmp_path / "whole.pt"), trained([2, 5], tmp_path / "legs.pt")
    for p, q in zip(whole.parameters(), legs.parameters(), strict=True):
        assert torch.equal(p, q)
    assert whole.policy.magnitudes()[0, 0] != 20


def test_its_text_says_what_it_may_do():
    assert repr(AffineAugmentation(turn=40)) == "AffineAugmentation(turn + shift + scale)"
    assert repr(AffineAugmentation(subpolicies=[["turn"], []])) == (
        "AffineAugmentation(turn | nothing, temperature=0.5)"
    )
