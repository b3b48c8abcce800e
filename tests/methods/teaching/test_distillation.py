"""What distillation's loss is where it is known, and what is refused."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanotes.methods.teaching import distillation_loss


def scores(N: int = 6, C: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(N, C, generator=g).double() for _ in range(2))
    return student, teacher, torch.randint(C, (N,), generator=g)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_it_is_the_mix_of_cross_entropy_and_torchs_divergence(
    temperature: float, weight: float
) -> None:
    student, teacher, y = scores()
    p, log_q = (teacher / temperature).softmax(1), (student / temperature).log_softmax(1)
    imitation = temperature**2 * F.kl_div(log_q, p, reduction="batchmean")
    right = (1 - weight) * F.cross_entropy(student, y) + weight * imitation
    loss = distillation_loss(student, teacher, y, temperature=temperature, weight=weight)
    torch.testing.assert_close(loss, right)


def test_hot_distillation_matches_scores_up_to_a_shift() -> None:
    student, teacher, y = scores()
    z = student - teacher
    matching = (z - z.mean(1, keepdim=True)).square().mean(1).mean() / 2
    errors = [
        float(distillation_loss(student, teacher, y, temperature=tau, weight=1.0) - matching)
        for tau in (1e2, 1e3)
    ]
    assert abs(errors[0]) < 0.05 * matching
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.1)  # of order 1 / tau


def test_equal_answers_cost_nothing_and_leave_no_gradient() -> None:
    student, _, y = scores()
    student.requires_grad_()
    shifted = student.detach() + torch.arange(6.0).double()[:, None]
    loss = distillation_loss(student, shifted, y, weight=1.0)
    (gradient,) = torch.autograd.grad(loss, student)
    torch.testing.assert_close(loss, torch.zeros_like(loss))
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_the_gradient_is_the_difference_of_the_answers() -> None:
    student, teacher, y = scores()
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(
        distillation_loss(student, teacher, y, temperature=3.0, weight=0.4), student
    )
    soft = (student / 3).softmax(1) - (teacher / 3).softmax(1)
    hard = student.softmax(1) - nn.functional.one_hot(y, 4)
    torch.testing.assert_close(gradient, (0.4 * 3 * soft + 0.6 * hard) / 6)


def test_certain_teachers_are_no_trouble() -> None:
    student, teacher, y = scores()
    assert distillation_loss(student, 1e4 * teacher, y).isfinite()


@pytest.mark.parametrize("temperature", [0, -1.0, float("inf"), float("nan"), "hot", True])
def test_wrong_temperatures_are_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=r"temperature=.* must be a .*number above 0"):
        distillation_loss(*scores(), temperature=temperature)


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_wrong_weights_are_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=r"weight=.* must be (in \[0, 1\]|a finite number)"):
        distillation_loss(*scores(), weight=weight)


def test_a_teacher_of_other_classes_is_refused() -> None:
    student, teacher, y = scores()
    with pytest.raises(ValueError, match=r"teacher has scores \[6, 3\] and student \[6, 4\]"):
        distillation_loss(student, teacher[:, :3], y)
    with pytest.raises(ValueError, match="teacher has scores"):  # not broadcast
        distillation_loss(student, teacher[:1], y)
    with pytest.raises(ValueError, match="labels run from 0 to 4"):
        distillation_loss(student, teacher, torch.tensor([0, 1, 2, 3, 4, 0]))
