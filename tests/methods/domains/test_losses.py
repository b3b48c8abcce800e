import pytest
import torch

from metanotes.methods.domains import difference_loss, scale_invariant_mse


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_scale_invariant_mse_is_a_variance_and_half_the_pairwise_difference() -> None:
    x_hat, x = normal(4, 3, 5, 5), normal(4, 3, 5, 5, seed=1)
    got = scale_invariant_mse(x_hat, x).item()
    d = (x - x_hat).flatten(1)
    k = d.shape[1]
    equation = (d.square().sum(1) / k - d.sum(1).square() / k**2).mean().item()
    variance = d.var(1, correction=0).mean().item()
    pairs = ((d[:, :, None] - d[:, None, :]).square().mean((1, 2)) / 2).mean().item()
    assert got == pytest.approx(equation, rel=1e-12)
    assert got == pytest.approx(variance, rel=1e-12)
    assert got == pytest.approx(pairs, rel=1e-12)


def test_it_forgives_a_constant_of_each_image_and_not_a_scale() -> None:
    x_hat, x = normal(4, 3, 5, 5), normal(4, 3, 5, 5, seed=1)
    shifted = x_hat + normal(4, 1, 1, 1, seed=2)
    assert scale_invariant_mse(shifted, x).item() == pytest.approx(
        scale_invariant_mse(x_hat, x).item(), rel=1e-12
    )
    assert scale_invariant_mse(2 * x, x).item() == pytest.approx(
        x.flatten(1).var(1, correction=0).mean().item()
    )


def test_its_gradient() -> None:
    x_hat = normal(2, 6).requires_grad_()
    assert torch.autograd.gradcheck(scale_invariant_mse, (x_hat, normal(2, 6, seed=1)))


@pytest.mark.parametrize("shapes", [((4, 3), (4, 2)), ((0, 3), (0, 3))])
def test_reconstructions_of_another_shape(shapes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="x_hat"):
        scale_invariant_mse(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def test_difference_loss_is_the_papers_equation() -> None:
    shared, private = normal(7, 3), normal(7, 4, seed=1)
    expected = sum((shared[:, i] @ private[:, j]).item() ** 2 for i in range(3) for j in range(4))
    got = difference_loss(shared, private, normalize=False).item()
    assert got == pytest.approx(expected, rel=1e-12)


def test_normalised_it_is_that_of_centred_rows_of_length_1_a_pair() -> None:
    shared, private = normal(7, 3), normal(7, 4, seed=1)
    unit = []
    for code in (shared, private):
        centred = code - code.mean(0)
        unit.append(torch.stack([row / row.norm() for row in centred]))
    expected = difference_loss(*unit, normalize=False) / 49
    assert difference_loss(shared, private).item() == pytest.approx(expected.item(), rel=1e-12)


def test_normalised_it_does_not_depend_on_the_size_or_the_place_of_the_codes() -> None:
    shared, private = normal(7, 3), normal(7, 4, seed=1)
    moved = difference_loss(5 * shared + 3, 0.01 * private - 1).item()
    assert moved == pytest.approx(difference_loss(shared, private).item(), rel=1e-9)


def test_normalised_it_is_1_at_most() -> None:
    code = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])  # centred, the two rows are opposite
    assert difference_loss(code, code[:, :1]).item() == pytest.approx(1)


def test_zero_is_uncorrelated_and_not_independent() -> None:
    x = torch.linspace(-1, 1, 101, dtype=torch.float64)[:, None]
    square = x**2 - (x**2).mean()  # a function of x
    assert difference_loss(x, square, normalize=False).item() == pytest.approx(0, abs=1e-10)
    assert difference_loss(x, x, normalize=False) > 1


def test_a_code_that_is_constant_gives_0_and_no_nan() -> None:
    code = torch.ones(5, 3, requires_grad=True)
    loss = difference_loss(code, torch.rand(5, 3))
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(code.grad).all()


@pytest.mark.parametrize("normalize", [True, False])
def test_its_gradient_(normalize: bool) -> None:
    codes = normal(5, 3).requires_grad_(), normal(5, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda *c: difference_loss(*c, normalize=normalize), codes)


@pytest.mark.parametrize("shapes", [((4, 3), (5, 3)), ((0, 3), (0, 3)), ((4,), (4,))])
def test_codes_that_are_not_of_the_same_examples(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="shared"):
        difference_loss(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (
            torch.ones(4, 3, dtype=torch.uint8),
            ValueError,
            r"is of torch\.uint8; .*x\.float\(\) / 255",
        ),
        (torch.ones(4, 3).int(), ValueError, r"is of torch\.int32"),
        (torch.ones(4, 3).cfloat(), ValueError, r"is of torch\.complex64"),
        (torch.ones(4, 3).numpy(), TypeError, "is a ndarray; it must be a tensor"),
    ],
)
@pytest.mark.parametrize("loss", [scale_invariant_mse, difference_loss])
def test_what_are_no_real_numbers_is_named(wrong, error, message, loss) -> None:
    for first, second in ((wrong, torch.ones(4, 3)), (torch.ones(4, 3), wrong)):
        with pytest.raises(error, match=message):
            loss(first, second)


@pytest.mark.parametrize("shape", [(), (4,)])
def test_reconstructions_without_an_axis_of_examples(shape) -> None:
    with pytest.raises(ValueError, match=r"must have one shape, \[n, \.\.\.\]"):
        scale_invariant_mse(torch.ones(shape), torch.ones(shape))


@pytest.mark.parametrize("n", [3, 7, 10, 32])
def test_codes_that_are_all_the_same_share_nothing(n: int) -> None:
    shared, private = torch.full((n, 4), 0.1), torch.full((n, 4), 0.3)
    assert difference_loss(shared, private) == 0
