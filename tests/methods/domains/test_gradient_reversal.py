import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from metanotes.methods.domains import DomainAdversary, gradient_reversal, reversal_schedule

DOUBLE = {"dtype": torch.float64}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, 2.5])
def test_forward_is_the_identity_and_the_gradient_is_minus_lambda_times_it(strength: float) -> None:
    x = normal(5, 3).requires_grad_()
    y = gradient_reversal(x, strength)
    assert torch.equal(y, x)
    plain = torch.autograd.grad((x**3).sum(), x)[0]
    reversed_ = torch.autograd.grad((y**3).sum(), x)[0]
    assert torch.equal(reversed_, -strength * plain)


def test_it_can_be_differentiated_twice_and_batched() -> None:
    x = normal(4)

    def f(x: torch.Tensor) -> torch.Tensor:
        return (gradient_reversal(x, 0.5) ** 3).sum()

    hessian = torch.func.jacrev(torch.func.grad(f))(x)
    assert torch.allclose(hessian, torch.diag(0.25 * 6 * x))  # reversed once more
    batched = torch.func.vmap(torch.func.grad(f))(normal(7, 4))
    assert torch.allclose(batched, -0.5 * 3 * normal(7, 4) ** 2)


@pytest.mark.parametrize("strength", [-1.0, math.inf, math.nan])
def test_a_strength_that_is_none_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match="strength="):
        gradient_reversal(torch.zeros(1), strength)


def test_the_schedule_rises_from_0_to_1_and_stays() -> None:
    values = [reversal_schedule(p / 20) for p in range(25)]
    assert values[0] == 0
    assert values == sorted(values)
    assert values[20] == values[24] == pytest.approx(1, abs=1e-4)
    assert reversal_schedule(0.25) == pytest.approx(math.tanh(1.25))  # the same, in one word


@pytest.fixture
def adversary() -> DomainAdversary:
    torch.manual_seed(0)
    return DomainAdversary(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double())


def plain_loss(net: nn.Module, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """By the definition: -log of the probability of the right domain, with no layer between."""
    right = torch.cat([1 - net(source).sigmoid(), net(target).sigmoid()])
    return -right.log().mean()


@pytest.mark.parametrize("strength", [1.0, 0.25])
def test_the_net_descends_and_the_encoder_ascends(
    adversary: DomainAdversary, strength: float
) -> None:
    source, target = normal(6, 3).requires_grad_(), normal(4, 3, seed=1).requires_grad_()
    expected = plain_loss(adversary.net, source, target)
    loss = adversary(source, target, strength)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    theta = list(adversary.parameters())
    inputs = [*theta, source, target]
    plain = torch.autograd.grad(expected, inputs)
    got = torch.autograd.grad(loss, inputs)
    for g, p in zip(got[: len(theta)], plain[: len(theta)], strict=True):
        assert torch.allclose(g, p, rtol=1e-12)
    for g, p in zip(got[-2:], plain[-2:], strict=True):
        assert torch.allclose(g, -strength * p, rtol=1e-12)


def test_flipped_labels_are_the_others_loss_for_the_encoder_alone(
    adversary: DomainAdversary,
) -> None:
    source, target = normal(6, 3).requires_grad_(), normal(4, 3, seed=1).requires_grad_()
    theta = list(adversary.parameters())
    flipped = DomainAdversary(adversary.net, flipped=True)
    loss = flipped(source, target, 0.5)
    own = plain_loss(adversary.net, source, target)
    assert loss.item() == pytest.approx(own.item(), rel=1e-12)
    net_gradient = torch.autograd.grad(loss, theta, retain_graph=True)
    for g, p in zip(net_gradient, torch.autograd.grad(own, theta), strict=True):
        assert torch.allclose(g, p, rtol=1e-12)
    logits = adversary.net(torch.cat([source, target])).squeeze(1)
    other = torch.tensor([1.0] * 6 + [0.0] * 4, **DOUBLE)
    fooled = 0.5 * F.binary_cross_entropy_with_logits(logits, other)
    for g, p in zip(
        torch.autograd.grad(loss, [source, target]),
        torch.autograd.grad(fooled, [source, target]),
        strict=True,
    ):
        assert torch.allclose(g, p, rtol=1e-12)


def test_where_the_net_is_certain_only_the_flipped_loss_still_pushes() -> None:
    net = nn.Linear(1, 1)
    with torch.no_grad():
        net.weight.fill_(20.0)
        net.bias.zero_()
    pushes = []
    for flipped in (False, True):
        h = torch.tensor([[-1.0], [1.0]], requires_grad=True)  # source at -1, target at 1
        DomainAdversary(net, flipped=flipped)(h[:1], h[1:]).backward()
        pushes.append(h.grad)
    assert pushes[0].abs().max() < 1e-6
    assert pushes[1][0] < -5 < 5 < pushes[1][1]  # descent moves the source to the right


@pytest.mark.parametrize("strength", ["1", None, True, torch.ones(3)])
@pytest.mark.parametrize("flipped", [False, True])
def test_a_strength_that_is_no_number_is_refused(strength, flipped) -> None:
    with pytest.raises(ValueError, match="strength="):
        gradient_reversal(torch.zeros(1), strength)
    adversary = DomainAdversary(nn.Linear(3, 1), flipped=flipped)
    with pytest.raises(ValueError, match="strength="):
        adversary(torch.ones(2, 3), torch.ones(2, 3), strength)
    for wrong in (-1.0, math.nan):
        with pytest.raises(ValueError, match="strength="):
            adversary(torch.ones(2, 3), torch.ones(2, 3), wrong)


def test_a_strength_that_is_learned_is_refused() -> None:
    """It would be held constant: no gradient, and no word."""
    with pytest.raises(ValueError, match="strength="):
        gradient_reversal(torch.zeros(1), nn.Parameter(torch.tensor(1.0)))
    x = normal(3).requires_grad_()
    for half in (np.float64(0.5), torch.tensor(0.5)):
        (gradient,) = torch.autograd.grad(gradient_reversal(x, half).sum(), x)
        assert torch.equal(gradient, torch.full_like(x, -0.5))
    with pytest.raises(TypeError, match="x is a ndarray"):
        gradient_reversal(np.ones(3))


@pytest.mark.parametrize("progress", [-0.1, -100.0, math.nan])
def test_a_part_of_the_training_is_not_negative(progress) -> None:
    with pytest.raises(ValueError, match="progress="):
        reversal_schedule(progress)


@pytest.mark.parametrize(
    ("net", "error", "message"),
    [
        (None, TypeError, "net is a NoneType; it must be a module"),
        (lambda h: h[:, :1], TypeError, "net is a function; it must be a module"),
        (nn.Sequential(nn.Linear(3, 1), nn.Sigmoid()), ValueError, "net ends in a Sigmoid"),
    ],
)
def test_what_is_no_domain_classifier_is_named(net, error, message) -> None:
    with pytest.raises(error, match=message):
        DomainAdversary(net)
    with pytest.raises(TypeError, match="positional"):
        DomainAdversary(nn.Linear(3, 1), True)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (torch.ones(0, 3), torch.ones(0, 3), "both without an example"),
        (torch.ones(2, 3), torch.ones(3), r"target is \[3\]"),
        (torch.ones(2, 3).int(), torch.ones(2, 3), r"source is of torch\.int32"),
        (torch.ones(2, 3), torch.ones(2, 2), r"source \[2, 3\] .* and target \[2, 2\]"),
        (torch.ones(2, 3), torch.ones(2, 3).double(), r"of torch\.float32 and .* torch\.float64"),
        (torch.ones(2, 4), torch.ones(2, 4), r"net gave \[4, 2\] for \[4, 4\]; .* \[4, 1\]"),
    ],
)
def test_representations_that_do_not_go_together(source, target, message, flipped) -> None:
    net = nn.Linear(source.shape[1], 2 if source.shape[1] == 4 else 1)
    with pytest.raises(ValueError, match=message):
        DomainAdversary(net, flipped=flipped)(source, target)


class Tied(nn.Module):
    """Two layers with the same weights, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1)
        self.b.weight = self.a.weight

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.out(self.b(self.a(h).tanh()).tanh())


def used_twice() -> nn.Module:
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(3, 1))


@pytest.mark.parametrize("make", [Tied, used_twice])
def test_flipped_labels_leave_the_net_as_it_is(make) -> None:
    """functional_call loses a parameter that it replaces under two names."""
    net = make().double()
    before = list(net.parameters())
    flipped = DomainAdversary(net, flipped=True)
    source, target = normal(6, 3).requires_grad_(), normal(4, 3, seed=1)
    loss = flipped(source, target)
    assert all(a is b for a, b in zip(net.parameters(), before, strict=True))
    ours = torch.autograd.grad(loss, [*before, source])
    own = plain_loss(net, source, target)
    for g, p in zip(ours, torch.autograd.grad(own, before), strict=False):
        assert torch.allclose(g, p, rtol=1e-12)
    logits = net(torch.cat([source, target])).squeeze(1)
    others = torch.tensor([1.0] * 6 + [0.0] * 4, **DOUBLE)
    swapped = F.binary_cross_entropy_with_logits(logits, others)
    assert torch.allclose(ours[-1], torch.autograd.grad(swapped, source)[0], rtol=1e-12)


@pytest.mark.parametrize("flipped", [False, True])
def test_running_statistics_see_a_batch_once(flipped) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    DomainAdversary(net, flipped=flipped)(torch.rand(5, 3), torch.rand(5, 3))
    assert net[1].num_batches_tracked == 1


@pytest.mark.parametrize("flipped", [False, True])
def test_a_domain_alone_pushes_alone(adversary: DomainAdversary, flipped: bool) -> None:
    target = normal(4, 3).requires_grad_()
    loss = DomainAdversary(adversary.net, flipped=flipped)(target.detach()[:0], target)
    expected = F.softplus(-adversary.net(target)).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.autograd.grad(loss, target)[0].abs().max() > 0
