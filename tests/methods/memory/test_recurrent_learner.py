"""The recurrent learner: what it may see, and that it learns with its weights fixed."""

import pytest
import torch
from torch import nn

from metanotes import Batch, RecurrentLearner, Task, evaluate, meta_train, mse
from metanotes.data import surfaces


def learner_64(**settings) -> RecurrentLearner:
    return RecurrentLearner(inputs=2, hidden=5, **settings).double()


def tasks_64(shots=6, queries=3, tasks=4, seed=0) -> Task:
    return surfaces(shots, queries, seed=seed, dtype=torch.float64)(tasks)


def test_each_prediction_is_that_of_an_lstm_cell_fed_the_target_before():
    learner, (support, _) = learner_64(), tasks_64()
    cell = nn.LSTMCell(3, 5).double()
    cell.load_state_dict({n.removesuffix("_l0"): p for n, p in learner.lstm.state_dict().items()})
    state, before = None, torch.zeros(4, 1, dtype=torch.float64)
    found = learner.predictions(support)
    for j in range(6):
        state = cell(torch.cat([support.x[:, j], before], 1), state)
        torch.testing.assert_close(found[:, j], learner.head(state[0]))
        before = support.y[:, j]
    adapted = learner.adapt(support)
    torch.testing.assert_close(adapted.h, state[0])
    torch.testing.assert_close(adapted.c, state[1])


def test_a_prediction_does_not_see_its_own_target_and_sees_all_before():
    learner, (support, _) = learner_64(), tasks_64()
    y = support.y.clone().requires_grad_()
    predictions = learner.predictions(Batch(support.x, y)).sum((0, 2))
    for j in range(6):
        (g,) = torch.autograd.grad(predictions[j], y, retain_graph=True, allow_unused=True)
        g = torch.zeros_like(y) if g is None else g
        assert (g[:, j:] == 0).all()
        assert (g[:, :j] != 0).all()


def test_a_query_is_the_next_example_of_the_sequence():
    learner, (support, query) = learner_64(), tasks_64()
    predicted = learner.predict(learner.adapt(support), query.x)
    for m in range(3):
        x = torch.cat([support.x, query.x[:, m : m + 1]], 1)
        y = torch.cat([support.y, torch.full((4, 1, 1), 7.0, dtype=torch.float64)], 1)
        torch.testing.assert_close(predicted[:, m], learner.predictions(Batch(x, y))[:, -1])


def test_the_loss_is_a_mean_over_the_whole_sequence():
    learner, tasks = learner_64(), tasks_64()
    x, y = (torch.cat(pair, 1) for pair in zip(*tasks, strict=True))
    errors = (learner.predictions(Batch(x, y)) - y).square().mean((1, 2))
    torch.testing.assert_close(learner(tasks), errors)


def test_it_learns_to_learn_and_adapting_changes_no_weight():
    learner = RecurrentLearner(inputs=1, hidden=16)
    test = surfaces(10, 5, dim=1, seed=9)
    before = evaluate(learner, test, 100).mean
    meta_train(learner, surfaces(10, 5, dim=1, seed=0), 300, meta_lr=0.02, progress=False)
    weights = [p.clone() for p in learner.parameters()]
    assert evaluate(learner, test, 100).mean < 0.5 * before
    assert all(map(torch.equal, weights, learner.parameters()))
    with torch.no_grad():
        errors = [evaluate(learner, surfaces(n, 5, dim=1, seed=9), 200).mean for n in (1, 10)]
    assert errors[1] < 0.8 * errors[0]  # the more examples, the better


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="hidden=0 must be a whole number of at least 1"):
        RecurrentLearner(inputs=2, hidden=0)
    with pytest.raises(ValueError, match=r"\[2\] and \[1\]; this learner is for \[3\] and \[1\]"):
        RecurrentLearner(inputs=3).adapt(tasks_64().support)
    x, y = torch.zeros(2, 3, 2), torch.zeros(2, 3, 2)
    with pytest.raises(ValueError, match="this learner is for"):
        RecurrentLearner(inputs=2, loss=mse)(Task(Batch(x, y), Batch(x, y)))
