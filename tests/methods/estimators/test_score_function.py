import pytest
import torch
from torch import Tensor, nn

from metanotes import meta_train, reinforce
from metanotes.data import sinusoid
from metanotes.methods.estimators import RunningMean, score_function
from tests.methods.estimators.enumerated import TABLE, check_mean, exact, gradient, learned

REPEATS = 3000


def draw(phi: Tensor, n: int, noise: torch.Generator) -> tuple[Tensor, Tensor]:
    """log p of n draws, and their losses."""
    log_p = phi.log_softmax(-1)
    a, b = (p.multinomial(n, replacement=True, generator=noise) for p in log_p.detach().exp())
    return log_p[0, a] + log_p[1, b], TABLE[a, b]


def estimates(baseline, n: int = 4, repeats: int = REPEATS) -> Tensor:
    noise, mean, kept = torch.Generator().manual_seed(0), RunningMean(0.9), []
    for _ in range(repeats):
        phi = learned()
        log_probs, losses = draw(phi, n, noise)
        b = mean.value if baseline == "running" else baseline
        kept.append(gradient(score_function(log_probs, losses, b), phi))
        mean.update(losses)
    return torch.stack(kept)


@pytest.mark.parametrize("baseline", [None, "others", "running", 3.0])
def test_the_mean_is_the_gradient_by_enumeration(baseline) -> None:
    check_mean(estimates(baseline), exact())


def test_a_baseline_takes_variance_away() -> None:
    variance = {b: estimates(b, repeats=1000).var(0).sum() for b in (None, "others", "running")}
    assert variance["others"] < 0.5 * variance[None]
    assert variance["running"] < 0.5 * variance[None]


def test_the_mean_of_all_draws_would_be_biased() -> None:
    """By the factor 1 - 1/n, which is why a draw is not in its own baseline."""
    noise, kept = torch.Generator().manual_seed(0), []
    for _ in range(REPEATS):
        phi = learned()
        log_probs, losses = draw(phi, 2, noise)
        kept.append(gradient(score_function(log_probs, losses, losses.mean()), phi))
    check_mean(torch.stack(kept), exact() / 2)
    with pytest.raises(AssertionError):
        check_mean(torch.stack(kept), exact())


def test_the_value_is_the_mean_loss_of_each_task() -> None:
    log_probs = torch.full((4,), -1.5, requires_grad=True)
    losses = torch.arange(12.0).reshape(4, 3)
    assert torch.equal(score_function(log_probs, losses), losses.mean(0))
    assert score_function(log_probs, torch.tensor([1, 0, 1, 1])).item() == 0.75


@pytest.mark.parametrize("baseline", [True, False])
def test_with_one_step_it_is_the_reinforce_of_rollouts(baseline: bool) -> None:
    losses = torch.tensor([3.0, 1.0, 4.0, 1.5])
    grads = []
    for rollouts in (False, True):
        log_probs = torch.zeros(4, requires_grad=True)
        if rollouts:
            value = reinforce(log_probs[:, None], -losses[:, None], baseline).mean()
        else:
            value = score_function(log_probs, losses, "others" if baseline else None)
        grads.append(gradient(value, log_probs))
    torch.testing.assert_close(*grads)


def test_each_task_has_a_baseline_of_its_own() -> None:
    log_probs = torch.zeros(2, requires_grad=True)
    losses = torch.tensor([[1.0, 100.0], [3.0, 90.0]])  # two draws, two tasks
    first, second = (score_function(log_probs, losses)[t] for t in range(2))
    assert gradient(first, log_probs).tolist() == [-1.0, 1.0]
    assert gradient(second, log_probs).tolist() == [5.0, -5.0]


def test_what_the_losses_depend_on_is_differentiated() -> None:
    phi = learned()
    log_probs, losses = draw(phi, 5, torch.Generator().manual_seed(0))
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    value = score_function(log_probs, scale * losses)
    torch.testing.assert_close(gradient(value, scale), losses.mean())


def test_the_running_mean_is_its_definition() -> None:
    mean, seen = RunningMean(0.8), [5.0, 2.0, 7.0]
    for x in seen:
        mean.update(torch.tensor([x - 1, x + 1]))
    weights = [0.8**2, 0.8, 1.0]
    expected = sum(w * x for w, x in zip(weights, seen, strict=True)) / sum(weights)
    assert mean.value.item() == pytest.approx(expected, rel=1e-6)
    resumed = RunningMean(0.8)
    assert resumed.value == 0
    resumed.load_state_dict(mean.state_dict())
    assert torch.equal(resumed.value, mean.value)


class Constant(nn.Module):
    """Answers with one of three constants, which is a choice."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(3))

    def forward(self, tasks):
        choice = torch.distributions.Categorical(logits=self.logits)
        draws = choice.sample((8,))
        answers = torch.tensor([-3.0, 1.0, 4.0])[draws]
        losses = (tasks.query.y[None] - answers[:, None, None, None]).square().mean((2, 3))
        return score_function(choice.log_prob(draws), losses)  # [T]


def test_meta_train_makes_a_good_choice_likely() -> None:
    torch.manual_seed(0)
    learner = Constant()
    meta_train(learner, sinusoid(seed=0), 100, tasks=4, meta_lr=0.1, progress=False)
    assert learner.logits.softmax(0)[1] > 0.95


@pytest.mark.parametrize(
    ("log_probs", "losses", "baseline", "message"),
    [
        (torch.zeros(3), torch.zeros(4), None, r"log_probs \[3\] and losses \[4\]"),
        (torch.zeros(3, 2), torch.zeros(3, 2), None, r"log_probs \[3, 2\]"),
        (torch.zeros(0), torch.zeros(0), None, "n >= 1 draws"),
        (torch.zeros(1), torch.zeros(1), "others", "draw at least 2"),
        (torch.zeros(3), torch.zeros(3), "mean", "baseline='mean' must be 'others'"),
        (torch.zeros(3), torch.zeros(3), torch.zeros(2), r"baseline \[2\] does not fit"),
        (torch.zeros(3), torch.zeros(3), torch.zeros(5, 3), r"baseline \[5, 3\] does not fit"),
    ],
)
def test_bad_input_is_named(log_probs, losses, baseline, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_function(log_probs.requires_grad_(), losses, baseline)


def test_draws_of_nothing_learned() -> None:
    with pytest.raises(ValueError, match="log_probs does not depend on anything that is learned"):
        score_function(torch.zeros(3), torch.zeros(3))


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_its_range(decay: float) -> None:
    with pytest.raises(ValueError, match="decay="):
        RunningMean(decay)
