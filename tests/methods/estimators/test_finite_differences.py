import pytest
import torch
from torch import Tensor

from metanotes.methods.estimators import finite_differences
from tests.methods.estimators.enumerated import exact, expected, gradient, learned


def difference(step: float | None = None) -> Tensor:
    phi = learned()
    return gradient(finite_differences(expected, phi, step), phi)


def test_it_is_the_gradient_by_enumeration() -> None:
    torch.testing.assert_close(difference(), exact(), rtol=0, atol=1e-9)


def test_the_error_falls_with_the_square_of_the_step() -> None:
    coarse, fine = ((difference(h) - exact()).norm() for h in (0.2, 0.1))
    assert 3.8 < coarse / fine < 4.2


def test_a_quadratic_has_no_error_and_noise_is_divided_by_the_step() -> None:
    phi = torch.tensor([3.0, -1.0], dtype=torch.float64, requires_grad=True)
    value = finite_differences(lambda phi: phi.square().sum(), phi, 0.5)
    torch.testing.assert_close(gradient(value, phi), 2 * phi.detach())
    noise = torch.Generator().manual_seed(0)

    def noisy(phi: Tensor) -> Tensor:
        return phi.sum() + torch.randn((), generator=noise, dtype=torch.float64)

    spread = {}
    for h in (1.0, 0.01):
        values = [gradient(finite_differences(noisy, phi, h), phi) for _ in range(500)]
        spread[h] = torch.stack(values).std()
        assert 0.9 < spread[h] * h * 2**0.5 < 1.1  # sd of (u - v) / (2 h)


def test_a_step_has_no_derivative_but_where_it_is() -> None:
    at = torch.tensor([0.3, 0.05], dtype=torch.float64, requires_grad=True)
    value = finite_differences(lambda phi: (phi > 0).double().sum(), at, 0.1)
    torch.testing.assert_close(gradient(value, at), torch.tensor([0.0, 5.0]).double())


def test_all_candidates_at_once_and_tensors_by_name() -> None:
    def one(phi: dict[str, Tensor]) -> Tensor:
        return torch.stack([phi["w"].square().sum(), (phi["w"] @ phi["b"]).sum().sin()])  # T = 2

    grads = []
    for how in ("one by one", "at once", "autograd"):
        phi = {
            "w": torch.arange(6.0).double().reshape(3, 2).requires_grad_(),
            "b": torch.ones(2).double().requires_grad_(),
        }
        if how == "autograd":
            value = one(phi)
        else:
            batched = how == "at once"
            loss = torch.func.vmap(one) if batched else one
            value = finite_differences(loss, phi, batched=batched)
        assert value.shape == (2,)
        value.sum().backward()
        grads.append([t.grad for t in phi.values()])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(grads[0], grads[2], rtol=1e-7, atol=1e-8)


def test_single_precision_and_large_numbers() -> None:
    phi = torch.tensor([1000.0, 1.0], requires_grad=True)
    value = finite_differences(lambda phi: phi.square().sum(), phi)
    torch.testing.assert_close(gradient(value, phi)[0].item(), 2000.0, rtol=1e-2, atol=0)


@pytest.mark.parametrize(
    ("at", "step", "message"),
    [
        (0.0, 0.0, "step=0.0 must be a finite number above 0"),
        (0.0, -1.0, "step=-1.0"),
        (1e8, 0.1, "step=0.1 is lost in the rounding of phi, of torch.float32"),
    ],
)
def test_bad_steps_are_named(at: float, step: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        finite_differences(lambda phi: phi.sum(), torch.tensor([at], requires_grad=True), step)


def test_nothing_is_learned() -> None:
    with pytest.raises(ValueError, match="does not require a gradient"):
        finite_differences(lambda phi: phi.sum(), torch.zeros(2))
