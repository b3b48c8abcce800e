"""How much is forgotten: the matrix example by example, and what its two numbers say."""

import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

from metanotes import SGD, Batch, Learner, StreamLearner, Task
from metanotes.methods.continual import accuracy_matrix, average_accuracy, backward_transfer
from tests.methods.continual.test_stream_learner import net, streams


class LastSeen(Learner):
    """Answers with the last label of its support set, whatever the query."""

    def adapt(self, support, steps=None):
        return support.y[:, -1]

    def predict(self, adapted, x):
        return torch.eye(6)[adapted][:, None].expand(-1, x.shape[1], -1)


class Keeps(Learner):
    """Knows every label that it has seen; x is the label."""

    def adapt(self, support, steps=None):
        return support.y

    def predict(self, adapted, x):
        y = x[..., 0].long()
        known = (x.long() == adapted[:, None]).any(2)  # [T, M]
        return one_hot(torch.where(known, y, (y + 1) % 6), 6)


def stream(shots: int = 2) -> Task:
    y = torch.tensor([[3, 0, 5, 1, 2, 4], [1, 2, 0, 4, 3, 5]])
    support, query = y.repeat_interleave(shots, 1), y.repeat(1, 3)
    return Task(*(Batch(t[..., None].float(), t) for t in (support, query)))


def test_who_knows_the_last_class_alone_has_a_diagonal():
    R = accuracy_matrix(LastSeen(), stream(), stages=6)
    assert torch.equal(R, torch.eye(6).double().expand(2, 6, 6))
    assert torch.allclose(average_accuracy(R), torch.full((2,), 1 / 6).double())
    assert torch.equal(backward_transfer(R), torch.full((2,), -1.0).double())


def test_who_keeps_everything_has_a_triangle():
    R = accuracy_matrix(Keeps(), stream(), stages=3)
    assert torch.equal(R, torch.ones(3, 3).tril().double().expand(2, 3, 3))
    assert torch.equal(average_accuracy(R), torch.ones(2).double())
    assert torch.equal(backward_transfer(R), torch.zeros(2).double())


def test_it_is_counted_example_by_example():
    tasks = streams(queries=40)
    learner = StreamLearner(net(), SGD(0.5))
    R = accuracy_matrix(learner, tasks, stages=2)
    for n in range(3):
        for i in range(2):
            first = Batch(*(t[n : n + 1, : 6 * (i + 1)] for t in tasks.support))
            answers = learner.predict(learner.adapt(first), tasks.query.x[n : n + 1])[0].argmax(1)
            for j in range(2):
                right = [
                    float(a == y)
                    for a, y in zip(answers, tasks.query.y[n], strict=True)
                    if y in ((0, 1), (2, 3))[j]
                ]
                assert R[n, i, j] == pytest.approx(sum(right) / len(right))


def test_the_two_numbers_are_the_sums_of_their_equations():
    R = torch.rand(4, 5, 5, dtype=torch.float64)
    for n in range(4):
        last = [float(R[n, 4, j]) for j in range(5)]
        change = [float(R[n, 4, j] - R[n, j, j]) for j in range(4)]
        assert float(average_accuracy(R)[n]) == pytest.approx(sum(last) / 5)
        assert float(backward_transfer(R)[n]) == pytest.approx(sum(change) / 4)


def test_a_learner_is_judged_in_evaluation_mode_and_left_as_it_was():
    model = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 4)).double().eval()
    learner = StreamLearner(model, SGD(0.1), adapts="head").train()
    modes = [m.training for m in learner.modules()]
    accuracy_matrix(learner, streams(), stages=2)
    assert [m.training for m in learner.modules()] == modes


@pytest.mark.parametrize(
    ("tasks", "stages", "message"),
    [
        (stream(), 5, "stages=5 parts of equal length cannot be made of 12 support examples"),
        (stream(), 1, "stages=1 must be"),
        (Task(stream().support, Batch(torch.ones(2, 1, 1), torch.full((2, 1), 7))), 3, "nowhere"),
        (
            Task(stream().support, Batch(torch.ones(2, 1, 1), torch.ones(2, 1).long())),
            3,
            "no query",
        ),
    ],
)
def test_what_cannot_be_counted_is_refused(tasks, stages, message):
    with pytest.raises(ValueError, match=message):
        accuracy_matrix(Keeps(), tasks, stages)
