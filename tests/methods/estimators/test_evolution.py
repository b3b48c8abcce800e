import math

import pytest
import torch
from torch import Tensor

from metanotes.methods.estimators import evolution_strategy
from tests.methods.estimators.enumerated import check_mean, exact, expected, gradient, learned

A = torch.tensor([[1.0, 0.3], [0.3, 2.0]], dtype=torch.float64)
AT = torch.tensor([0.7, -0.4], dtype=torch.float64)


def cubic(phi: Tensor) -> Tensor:
    return phi @ A @ phi + phi.pow(3).sum() + 10


def estimates(loss, at: Tensor, sigma: float, m: int, repeats: int = 2000, **options) -> Tensor:
    noise, kept = torch.Generator().manual_seed(0), []
    for _ in range(repeats):
        phi = at.clone().requires_grad_()
        value = evolution_strategy(loss, phi, sigma, m, generator=noise, **options)
        kept.append(gradient(value, phi))
    return torch.stack(kept)


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("sigma", [0.1, 0.8])
def test_the_mean_is_the_gradient_of_the_smoothed_loss(sigma: float, antithetic: bool) -> None:
    # E (x + sigma e)^3 = x^3 + 3 sigma^2 x
    truth = 2 * A @ AT + 3 * AT**2 + 3 * sigma**2
    check_mean(estimates(cubic, AT, sigma, 4, antithetic=antithetic), truth)


def test_at_a_small_sigma_it_is_the_gradient_by_enumeration() -> None:
    at = learned().detach()
    check_mean(estimates(expected, at, 1e-3, 8, repeats=500), exact())


def test_a_step_has_the_gradient_of_its_smoothing() -> None:
    """Of L = the loss of the larger number: which one it is has a normal distribution."""

    def chosen(phi: Tensor) -> float:
        return [1.0, 4.0][int(phi.argmax())]

    sigma = 0.7
    at = torch.tensor([0.2, -0.1], dtype=torch.float64)
    d = (at[0] - at[1]).item() / (sigma * math.sqrt(2))
    slope = -3 * math.exp(-(d**2) / 2) / math.sqrt(2 * math.pi) / (sigma * math.sqrt(2))
    truth = torch.tensor([slope, -slope], dtype=torch.float64)
    check_mean(estimates(chosen, at, sigma, 4), truth)


def test_pairs_take_variance_away_and_the_level_of_the_loss_does_not_count() -> None:
    both = {a: estimates(cubic, AT, 0.1, 8, 300, antithetic=a) for a in (True, False)}
    assert both[True].var(0).sum() < 0.01 * both[False].var(0).sum()
    higher = estimates(lambda phi: cubic(phi) + 1e3, AT, 0.1, 8, 300)
    torch.testing.assert_close(higher, both[True], rtol=1e-6, atol=1e-9)


def test_a_linear_loss_of_one_number_is_differentiated_by_any_pair() -> None:
    """With e^2 in the place of 1: the only noise that is left."""
    phi = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    value = evolution_strategy(
        lambda phi: 5 * phi[0] + 1, phi, 0.3, 2, generator=torch.Generator().manual_seed(1)
    )
    e = torch.randn(1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(gradient(value, phi), 5 * e**2)
    torch.testing.assert_close(value.item(), 11.0)


@pytest.mark.parametrize("antithetic", [True, False])
def test_all_candidates_at_once_and_tensors_by_name(antithetic: bool) -> None:
    def one(phi: dict[str, Tensor]) -> Tensor:
        return torch.stack([phi["w"].square().sum(), (phi["w"] @ phi["b"]).sum().sin()])  # T = 2

    grads = []
    for batched in (False, True):
        phi = {"w": torch.ones(3, 2).requires_grad_(), "b": torch.ones(2).requires_grad_()}
        loss = torch.func.vmap(one) if batched else one
        value = evolution_strategy(
            *(loss, phi, 0.1, 6),
            antithetic=antithetic,
            batched=batched,
            generator=torch.Generator().manual_seed(3),
        )
        assert value.shape == (2,)
        value.sum().backward()
        grads.append([t.grad for t in phi.values()])
    torch.testing.assert_close(*grads)


def test_the_loss_is_never_differentiated_and_phi_is_left_alone() -> None:
    phi, other = learned(), torch.ones((), dtype=torch.float64, requires_grad=True)
    before = phi.detach().clone()
    value = evolution_strategy(lambda phi: other * expected(phi), phi, 0.1, 4)
    value.backward()
    assert other.grad is None
    assert torch.equal(phi, before)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0.0, 4), {}, ValueError, "sigma=0.0 must be a finite number above 0"),
        ((0.1, 0), {}, ValueError, "evaluations=0 must be"),
        ((0.1, 5), {}, ValueError, "evaluations=5 must be even"),
        ((0.1, 4), {"phi": torch.zeros(2)}, ValueError, "phi, 2 numbers, does not require a grad"),
        ((0.1, 4), {"phi": torch.zeros(0).requires_grad_()}, ValueError, "phi, 0 numbers"),
        ((0.1, 4), {"phi": torch.zeros(2, dtype=torch.int64)}, ValueError, "phi is of .*int64"),
        ((0.1, 4), {"phi": {}}, ValueError, r"phi is of \[\]"),
        (
            (0.1, 4),
            {"phi": {"a": torch.zeros(2), "b": torch.zeros(2).double()}},
            ValueError,
            "one kind",
        ),
        ((0.1, 4), {"phi": torch.nn.Linear(2, 2)}, TypeError, "phi has a Linear in it"),
        ((0.1, 4), {"phi": [1.0]}, TypeError, "phi has a list in it"),
        ((0.1, 4), {"batched": True}, ValueError, r"loss gave the shape \[\] for 4 candidates"),
    ],
)
def test_bad_input_is_named(arguments, options, error, message: str) -> None:
    phi = options.pop("phi", torch.zeros(2, requires_grad=True))
    with pytest.raises(error, match=message):
        evolution_strategy(lambda phi: phi.sum(), phi, *arguments, **options)


def test_losses_of_different_shapes() -> None:
    shapes = iter([1, 2])
    with pytest.raises(ValueError, match="different shapes for different values of phi"):
        evolution_strategy(
            lambda phi: torch.zeros(next(shapes)), torch.zeros(2, requires_grad=True), 0.1, 2
        )
