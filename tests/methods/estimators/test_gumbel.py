import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from metanotes.methods.estimators import gumbel_softmax
from tests.methods.estimators.enumerated import PHI, check_mean, exact, gradient, learned, relaxed


def estimates(temperature: float, repeats: int, straight_through: bool = False) -> Tensor:
    """Of single draws, `[R, 2, 3]`."""
    phi = PHI.expand(repeats, 2, 3).clone().requires_grad_()
    noise = torch.Generator().manual_seed(0)
    z = gumbel_softmax(phi, temperature, straight_through=straight_through, generator=noise)
    return gradient(relaxed(z).sum(), phi)


@pytest.mark.parametrize("straight_through", [False, True])
def test_with_the_global_generator_it_is_torchs(straight_through: bool) -> None:
    results = []
    for function in (gumbel_softmax, F.gumbel_softmax):
        phi = learned()
        torch.manual_seed(4)
        z = (
            gumbel_softmax(phi, 0.7, straight_through=straight_through)
            if function is gumbel_softmax
            else F.gumbel_softmax(phi, 0.7, hard=straight_through)
        )
        results.append((z, gradient(relaxed(z), phi)))
    torch.testing.assert_close(*results)
    torch.manual_seed(4)
    drawn = gumbel_softmax(PHI, 0.7, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(drawn, F.gumbel_softmax(torch.as_tensor(PHI), 0.7))


def test_hard_choices_have_the_probabilities_of_the_softmax() -> None:
    noise = torch.Generator().manual_seed(0)
    z = gumbel_softmax(PHI.expand(20000, 2, 3), 0.5, straight_through=True, generator=noise)
    assert set(z.unique().tolist()) == {0.0, 1.0}  # exactly
    check_mean(z, PHI.softmax(-1))


def test_the_mean_is_the_gradient_of_the_relaxed_loss() -> None:
    """Of one choice between two, worked out by integration over the noise."""
    logits = torch.tensor([0.4, -0.3], dtype=torch.float64)
    temperature = 0.6
    # g_0 - g_1 is logistic: u -> log(u / (1 - u)), u uniform
    u = (torch.arange(200000, dtype=torch.float64) + 0.5) / 200000
    d = logits[0].clone().requires_grad_()
    first = ((d - logits[1] + torch.logit(u)) / temperature).sigmoid()
    truth = gradient((first**2 * 3).mean(), d)
    phi = logits.expand(40000, 2).clone().requires_grad_()
    z = gumbel_softmax(phi, temperature, generator=torch.Generator().manual_seed(0))
    check_mean(gradient((z[:, 0] ** 2 * 3).sum(), phi)[:, 0], truth)


def test_the_bias_shrinks_with_the_temperature_and_the_variance_grows() -> None:
    bias, variance = [], []
    for temperature in (1.0, 0.3, 0.1):
        drawn = estimates(temperature, 200_000)
        bias.append((drawn.mean(0) - exact()).norm().item())
        variance.append(drawn.var(0).sum().item())
    noise = (variance[-1] / 200_000) ** 0.5
    assert bias[0] > 2 * bias[1] > 4 * bias[2], bias
    assert bias[1] > 4 * noise
    assert variance[0] < variance[1] < variance[2]


def test_at_a_low_temperature_the_mean_is_nearly_the_gradient_by_enumeration() -> None:
    check_mean(estimates(0.02, 100_000), exact())


@pytest.mark.parametrize(("power", "trapezoid"), [(1, 1.0), (2, 1.0), (3, 1.5), (4, 2.0)])
def test_straight_through_tends_to_the_trapezoid_rule(power: int, trapezoid: float) -> None:
    """(L'(0) + L'(1)) / 2 in the place of L(1) - L(0), of L = t^power between two choices."""
    logits = torch.tensor([0.4, -0.3], dtype=torch.float64)
    truth = logits.softmax(0).prod()
    phi = logits.expand(200_000, 2).clone().requires_grad_()
    noise = torch.Generator().manual_seed(0)
    z = gumbel_softmax(phi, 0.02, straight_through=True, generator=noise)
    drawn = gradient((z[:, 1] ** power).sum(), phi)[:, 1] / truth
    error = drawn.std() / 200_000**0.5
    assert abs(drawn.mean() - trapezoid) < 4.5 * error + 0.03


@pytest.mark.parametrize(
    ("logits", "temperature", "message"),
    [
        (torch.zeros(3), 0.0, "temperature=0.0 must be a finite number above 0"),
        (torch.zeros(3), -1.0, "temperature=-1.0"),
        (torch.zeros(3, dtype=torch.int64), 1.0, r"logits \[3\] of torch.int64"),
        (torch.zeros(()), 1.0, r"logits \[\] of torch.float32"),
        (torch.zeros(2, 0), 1.0, r"logits \[2, 0\]"),
    ],
)
def test_bad_input_is_named(logits: Tensor, temperature: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gumbel_softmax(logits, temperature)
