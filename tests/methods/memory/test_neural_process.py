"""The conditional neural process: its likelihood, and what its answers depend on."""

import math

import pytest
import torch

from metanotes import NeuralProcess, evaluate, meta_train
from metanotes.data import sinusoid
from tests.methods.memory.sets import (
    assert_same_losses_and_gradient,
    in_turn,
    labelled_tasks,
    shuffled,
    vector_tasks,
)


def learner_64() -> NeuralProcess:
    return NeuralProcess(inputs=2, outputs=3, hidden=8).double()


def answer_by_hand(learner, x, y, query):
    code = sum(in_turn(learner.h, torch.cat(pair)) for pair in zip(x, y, strict=True)) / len(x)
    out = in_turn(learner.g, torch.cat([query, code]))
    return out[:3], 0.01 + (1 + out[3:].exp()).log()


def test_losses_and_gradient_are_those_of_a_loop_over_tasks_and_queries():
    learner, tasks = learner_64(), vector_tasks()
    losses = []
    for x, y, xq, yq in zip(*tasks.support, *tasks.query, strict=True):
        minus_log_likelihood = 0
        for query, target in zip(xq, yq, strict=True):
            mean, sd = answer_by_hand(learner, x, y, query)
            density = (-((target - mean) ** 2) / (2 * sd**2)).exp() / (sd * math.sqrt(2 * math.pi))
            minus_log_likelihood = minus_log_likelihood - density.prod().log()
        losses.append(minus_log_likelihood / len(xq))
    assert_same_losses_and_gradient(learner, tasks, losses)


def test_predictions_are_the_means_and_each_is_a_querys_own():
    learner, (support, query) = learner_64(), vector_tasks()
    adapted = learner.adapt(support)
    predicted, answers = learner.predict(adapted, query.x), learner.distribution(adapted, query.x)
    for n in range(4):
        for m in range(3):
            mean, sd = answer_by_hand(learner, support.x[n], support.y[n], query.x[n, m])
            torch.testing.assert_close(predicted[n, m], mean)
            torch.testing.assert_close(answers.stddev[n, m], sd)


def test_the_order_of_the_examples_does_not_matter():
    learner, (support, _) = learner_64(), vector_tasks()
    torch.testing.assert_close(learner.adapt(support), learner.adapt(shuffled(support)))


def test_it_learns_means_and_how_far_to_trust_them():
    learner, test = NeuralProcess(inputs=1, hidden=64), sinusoid(5, 20, seed=9)
    before = evaluate(learner, test, 100).mean
    meta_train(learner, sinusoid((3, 10), 20, seed=0), 400, 32, meta_lr=3e-3, progress=False)
    score = evaluate(learner, test, 100)
    assert score.metric == "mse"
    assert score.mean < 0.5 * before
    tasks = test(200)
    with torch.no_grad():
        answers = learner.distribution(learner.adapt(tasks.support), tasks.query.x)
    inside = (tasks.query.y - answers.mean).abs() < 1.96 * answers.stddev
    assert 0.8 < inside.double().mean() < 1


def test_bad_settings_are_named():
    tasks = vector_tasks()
    with pytest.raises(ValueError, match="hidden=-1 must be a whole number of at least 1"):
        NeuralProcess(inputs=2, hidden=-1)
    with pytest.raises(
        ValueError, match=r"an input has the shape \[2\]; this learner is for \[1\]"
    ):
        NeuralProcess(inputs=1, outputs=3).double()(tasks)
    with pytest.raises(
        ValueError, match=r"a target has the shape \[3\]; this learner is for \[1\]"
    ):
        NeuralProcess(inputs=2).double()(tasks)
    with pytest.raises(ValueError, match=r"a target has the shape \[\], the model's output \[3\]"):
        learner_64()(labelled_tasks())
