import math

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
        DomainAdversary(net, flipped)(h[:1], h[1:]).backward()
        pushes.append(h.grad)
    assert pushes[0].abs().max() < 1e-6
    assert pushes[1][0] < -5 < 5 < pushes[1][1]  # descent moves the source to the right
