"""Training a rule on windows: resume, validation, what is refused."""

import pytest
import torch

from metanotes import (
    SGD,
    CheckpointError,
    LearningToOptimize,
    LSTMRule,
    NonFiniteLossError,
    train_optimizer,
    trajectory,
)
from metanotes.data import quadratics


def learner(steps: int = 30, **settings) -> LearningToOptimize:
    return LearningToOptimize(LSTMRule(hidden=8, preprocess=None), steps, **settings)


def train(who, episodes, **settings):
    sampler = quadratics(dim=4, seed=0)
    return train_optimizer(who, sampler, episodes, tasks=8, unroll=10, progress=False, **settings)


def test_a_window_is_a_plain_step_of_adam():
    ours, plain = learner(steps=25), learner(steps=25)
    history = train(ours, 1, clip=None)
    functions = quadratics(dim=4, seed=0)(8)
    adam = torch.optim.Adam(plain.parameters(), lr=3e-3)
    position, total = plain.start(functions), 0.0
    for steps in (10, 10, 5):
        losses, position = plain.unroll(functions, position, steps)
        loss = losses.sum(1).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        total += loss.item()
        position = position.detached()
    assert history.losses == pytest.approx([total])
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_it_learns_to_minimise():
    who = learner(steps=40)
    functions = quadratics(dim=4, seed=7)
    before = trajectory(who.rule, functions.restarted()(200), 40)[0].sum(1).mean()
    history = train(who, 40)
    after = trajectory(who.rule, functions.restarted()(200), 40)[0].sum(1).mean()
    assert after < 0.5 * before
    assert len(history.losses) == 40


def test_an_interrupted_run_is_the_same_bit_for_bit(tmp_path):
    whole, parts = learner(), learner()
    expected = train(whole, 6).losses
    path = tmp_path / "run.pt"
    train(parts, 2, checkpoint=path)
    resumed = learner()
    assert train(resumed, 6, checkpoint=path).losses == expected
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(CheckpointError, match="another"):
        train(learner(steps=31), 6, checkpoint=path)
    with pytest.raises(CheckpointError, match="another windows"):
        train_optimizer(
            learner(), quadratics(dim=4, seed=0), 6, tasks=9, checkpoint=path, progress=False
        )


def test_the_best_validated_rule_is_kept():
    who, scores, seen = learner(), iter([1.0, 3.0, 2.0]), []

    def validate(one):
        seen.append([p.clone() for p in one.parameters()])
        return next(scores)

    history = train(who, 6, validate=validate, validate_every=2)
    assert [score for _, score in history.validation] == [1.0, 3.0, 2.0]
    assert all(map(torch.equal, who.parameters(), seen[1]))


def test_a_window_without_weight_takes_no_step():
    who, last = learner(steps=20, weights=[0.0] * 20), learner(steps=20)
    train(who, 1)
    assert all(map(torch.equal, who.parameters(), last.parameters()))


def test_the_rate_can_be_scheduled():
    who = learner()
    adam = torch.optim.Adam(who.parameters(), lr=0.01)
    halve = torch.optim.lr_scheduler.StepLR(adam, 1, 0.5)
    train(who, 3, optimizer=adam, scheduler=halve)
    assert adam.param_groups[0]["lr"] == 0.01 / 8
    with pytest.raises(ValueError, match="scheduler= must be of the optimizer"):
        train(who, 3, scheduler=halve)


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(ValueError, match="SGD has no parameter to train"):
        train(LearningToOptimize(SGD(0.1), 5), 1)
    with pytest.raises(ValueError, match="episodes=0 must be at least 1"):
        train(learner(), 0)
    with pytest.raises(ValueError, match="clip=-1 must be above 0"):
        train(learner(), 1, clip=-1)
    wild = LearningToOptimize(LSTMRule(scale=1e30), 30)
    with pytest.raises(NonFiniteLossError, match="episode 1"):
        train(wild, 1)
