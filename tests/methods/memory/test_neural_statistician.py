"""The neural statistician: its bound by hand and by integration, and the KL it compares by."""

import math

import pytest
import torch
from torch import nn

from metanotes import Batch, NeuralStatistician, Task, evaluate, meta_train
from metanotes.data import point_sets
from metanotes.engine import plan_for
from metanotes.nets import mlp
from tests.methods.memory.sets import (
    assert_same_losses_and_gradient,
    in_turn,
    labelled_tasks,
    shuffled,
)


def learner_64(likelihood="normal", ways=3, context=2, latent=4) -> NeuralStatistician:
    decoder = mlp(latent + context, 6, 4 if likelihood == "normal" else 2, seed=8)
    return NeuralStatistician(
        mlp(2, 5, 7), decoder, ways, context=context, latent=latent, likelihood=likelihood
    ).double()


def halves(outputs):
    """Mean and standard deviation, from a vector with both."""
    mean, raw = outputs.chunk(2)
    return mean, 0.01 + (1 + raw.exp()).log()


def log_normal(x, mean, sd):
    return (-((x - mean) ** 2) / (2 * sd**2) - sd.log() - math.log(2 * math.pi) / 2).sum()


def kl(p, q):
    """Of two normal distributions with independent coordinates."""
    (m, s), (n, t) = p, q
    return ((t / s).log() + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5).sum()


def context_by_hand(learner, x):
    h = [in_turn(learner.body, example) for example in x]
    return halves(in_turn(learner.statistic, sum(h) / len(h)))


def losses_by_hand(learner, tasks, noise_c, noise_z):
    """Minus the bound for an example: set by set, example by example, with given draws."""
    losses = []
    standard = torch.zeros(2).double(), torch.ones(2).double()
    for n in range(len(tasks.support.y)):
        x = torch.cat([tasks.support.x[n], tasks.query.x[n]])
        y = torch.cat([tasks.support.y[n], tasks.query.y[n]])
        loss = 0
        for k in range(learner.ways):
            mean, sd = context_by_hand(learner, x[y == k])
            c = mean + sd * noise_c[n, k]
            loss = loss + kl((mean, sd), standard)
            for i in (y == k).nonzero().flatten().tolist():
                h = in_turn(learner.body, x[i])
                q = halves(in_turn(learner.z_of_x, torch.cat([h, c])))
                z = q[0] + q[1] * noise_z[n, i]
                out = in_turn(learner.decoder, torch.cat([z, c]))
                if learner.likelihood == "normal":
                    log_p = log_normal(x[i], *halves(out))
                else:
                    p = 1 / (1 + (-out).exp())
                    log_p = (x[i] * p.log() + (1 - x[i]) * (1 - p).log()).sum()
                loss = loss + kl(q, halves(in_turn(learner.z_of_c, c))) - log_p
        losses.append(loss / len(y))
    return losses


def tasks_64(tasks=4) -> Task:
    """Classes of different sizes, each in support and query; x in 0..1."""
    support, query = labelled_tasks(tasks)
    return Task(Batch(support.x.sigmoid(), support.y), Batch(query.x.sigmoid(), query.y))


@pytest.mark.parametrize("likelihood", ["normal", "bernoulli"])
def test_losses_and_gradient_are_those_of_a_loop_over_sets_and_examples(likelihood):
    learner, tasks = learner_64(likelihood), tasks_64()
    torch.manual_seed(6)
    noise = [torch.randn(4, 3, 2, dtype=torch.float64), torch.randn(4, 11, 4, dtype=torch.float64)]
    torch.manual_seed(6)
    assert_same_losses_and_gradient(learner, tasks, losses_by_hand(learner, tasks, *noise))


def test_the_gradient_is_that_of_finite_differences():
    learner, tasks = learner_64(), tasks_64()

    def loss():
        torch.manual_seed(6)
        return learner(tasks).mean()

    for p in learner.parameters():
        (g,) = torch.autograd.grad(loss(), p)
        place = int(g.abs().argmax())
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                p.view(-1)[place] += step
                values.append(loss())
                p.view(-1)[place] -= step
        torch.testing.assert_close(
            (values[0] - values[1]) / 2e-5, g.view(-1)[place], rtol=1e-5, atol=1e-8
        )


def test_the_loss_is_a_bound_on_the_likelihood_and_the_one_that_it_says():
    """One set of two numbers, c and z of one number: both integrals on a grid."""
    learner = NeuralStatistician(
        mlp(1, 5, 7), mlp(2, 6, 2, seed=8), 1, context=1, latent=1, likelihood="normal"
    ).double()
    x = torch.tensor([[0.4], [-1.1]], dtype=torch.float64)
    grid = torch.linspace(-9, 9, 301, dtype=torch.float64)
    step = grid[1] - grid[0]

    def log_density(outputs, at):
        mean, raw = outputs.chunk(2, -1)
        sd = 0.01 + (1 + raw.exp()).log()
        return -((at - mean) ** 2) / (2 * sd**2) - sd.log() - math.log(2 * math.pi) / 2

    with torch.no_grad():
        h = learner.body(x)
        q_c = log_density(learner.statistic(h.mean(0)), grid)  # [c]
        p_c = -(grid**2) / 2 - math.log(2 * math.pi) / 2
        p_z = log_density(learner.z_of_c(grid[:, None]), grid)  # [c, z]
        zc = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1)  # [c, z, (z, c)]
        decoded = learner.decoder(zc)
        bound, log_p = (q_c.exp() * (p_c - q_c)).sum() * step, p_c.clone()
        for example, features in zip(x, h, strict=True):
            p_x = log_density(decoded, example)[..., 0]
            hc = torch.cat([features.expand(len(grid), -1), grid[:, None]], 1)
            q_z = log_density(learner.z_of_x(hc), grid)  # [c, z]
            inner = (q_z.exp() * (p_x + p_z - q_z)).sum(1) * step
            bound = bound + (q_c.exp() * inner).sum() * step
            log_p = log_p + ((p_x + p_z).exp().sum(1) * step).log()
        log_p = (log_p.exp().sum() * step).log()

        torch.manual_seed(0)
        many = 40_000
        half = Batch(x[None, :1].expand(many, 1, 1), torch.zeros(many, 1, dtype=torch.long))
        other = Batch(x[None, 1:].expand(many, 1, 1), torch.zeros(many, 1, dtype=torch.long))
        draws = -2 * learner(Task(half, other))
    assert (q_c.exp().sum() * step - 1).abs() < 1e-6
    assert (draws.mean() - bound).abs() < 4 * draws.std() / math.sqrt(many)
    assert bound < log_p
    assert log_p - bound > 10 * draws.std() / math.sqrt(many)


def test_answers_are_the_divergences_of_contexts_by_numerical_integration():
    learner, (support, query) = learner_64(), tasks_64()
    with torch.no_grad():
        answers = learner.predict(learner.adapt(support), query.x)
        grid = torch.linspace(-12, 12, 1201, dtype=torch.float64)
        a, b = torch.meshgrid(grid, grid, indexing="ij")
        for n in range(2):
            for k in range(3):
                mean, sd = context_by_hand(learner, support.x[n][support.y[n] == k])
                for m in range(2):
                    mean_x, sd_x = context_by_hand(learner, query.x[n, m : m + 1])

                    def log_density(mean, sd):
                        square = ((a - mean[0]) / sd[0]) ** 2 + ((b - mean[1]) / sd[1]) ** 2
                        return -square / 2 - (2 * math.pi * sd[0] * sd[1]).log()

                    p, q = log_density(mean, sd), log_density(mean_x, sd_x)
                    integral = (p.exp() * (p - q)).sum() * (grid[1] - grid[0]) ** 2
                    torch.testing.assert_close(answers[n, m, k], -integral, rtol=1e-6, atol=1e-9)


def test_the_order_of_the_examples_does_not_matter_and_names_of_classes_move_with_them():
    learner, (support, query) = learner_64(), tasks_64()
    ours = learner.predict(learner.adapt(support), query.x)
    theirs = learner.predict(learner.adapt(shuffled(support)), query.x)
    torch.testing.assert_close(ours, theirs)
    renamed = learner.adapt(Batch(support.x, (support.y + 1) % 3))
    torch.testing.assert_close(ours, learner.predict(renamed, query.x).roll(-1, 2))


def test_tasks_are_worked_on_at_once_though_it_draws():
    learner, tasks = learner_64(), tasks_64()
    assert plan_for(learner, tasks).how.at_once


def test_it_learns_what_a_set_of_points_has_in_common():
    learner = NeuralStatistician(
        mlp(2, 64, 64), mlp(5, 64, 4), 1, context=3, latent=2, likelihood="normal"
    )
    history = meta_train(
        learner, point_sets(20, 20), 250, 32, meta_lr=5e-3, clip=10, progress=False
    )
    assert sum(history.losses[-20:]) / 20 < history.losses[0] - 0.5
    sets = point_sets(50, 1, seed=5).draw(200)
    with torch.no_grad():
        c = learner.adapt(sets.tasks.support)
        made = learner.generate(c, 200)
    assert made.shape == (200, 1, 200, 2)
    assert (made[:, 0].mean(1) - sets.center).square().mean() < 0.25 * sets.center.square().mean()


def test_it_tells_sets_apart_by_their_contexts():
    """Classes far apart: what was learned from single sets serves for tasks of three."""

    def clouds(tasks):
        center = 3 * torch.randn(tasks, 3, 1, 2, generator=g)
        x = (center + 0.3 * torch.randn(tasks, 3, 10, 2, generator=g)).transpose(1, 2).flatten(1, 2)
        y = torch.arange(3).repeat(tasks, 10)
        return Task(Batch(x[:, :15], y[:, :15]), Batch(x[:, 15:], y[:, 15:]))

    g = torch.Generator().manual_seed(0)
    learner = NeuralStatistician(
        mlp(2, 32, 32), mlp(4, 32, 4), 3, context=2, latent=2, likelihood="normal"
    )
    meta_train(learner, clouds, 200, 16, meta_lr=5e-3, clip=10, progress=False)
    assert evaluate(learner, clouds, 100).mean > 0.9


def test_bad_settings_are_named():
    (support, query), body, decoder = tasks_64(), mlp(2, 5, 7), mlp(6, 6, 4)
    with pytest.raises(ValueError, match="context=0 must be a whole number of at least 1"):
        NeuralStatistician(body, decoder, 3, context=0)
    with pytest.raises(ValueError, match="likelihood='poisson' must be"):
        NeuralStatistician(body, decoder, 3, likelihood="poisson")
    with pytest.raises(ValueError, match="does not tell how many features"):
        NeuralStatistician(nn.Flatten(), decoder, 3)
    learner = learner_64()
    y = support.y.clone()
    y[2][y[2] == 1] = 0
    with pytest.raises(ValueError, match=r"class 1 of task 2 has no example"):
        learner.adapt(Batch(support.x, y))
    with pytest.raises(ValueError, match=r"labels run from 0 to 2, but .* 2 classes"):
        learner_64(ways=2).adapt(support)
    misfit = NeuralStatistician(
        body, mlp(6, 6, 3), 3, context=2, latent=4, likelihood="normal"
    ).double()
    with pytest.raises(
        ValueError, match=r"the decoder gives \[3\] for x \[2\]; .* must give \[4\]"
    ):
        misfit(Task(support, query))


def test_pixels_of_another_range_are_refused():
    x, y = 255 * torch.rand(2, 6, 2), torch.arange(3).repeat(2, 2)
    learner = learner_64("bernoulli").float()
    with pytest.raises(ValueError, match=r"bernoulli. is of pixels in 0\.\.1: x / 255"):
        learner(Task(Batch(x, y), Batch(x, y)))
