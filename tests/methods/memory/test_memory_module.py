"""The memory of keys and values, against an example by hand and a plain loop."""

import math

import pytest
import torch
from torch import nn

from metanotes import MemoryModule, meta_train
from metanotes.methods.memory import Slots, by_presentation
from tests.methods.memory.remembered import sampler, told


def directions(degrees):
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1)


def test_the_update_is_that_of_an_example_by_hand():
    """Two slots, three classes: written, averaged, overwritten where it is oldest."""
    x = directions([0.0, 10.0, 90.0, 80.0, 200.0])[None]
    y = torch.tensor([[0, 0, 1, 0, 2]])
    learner = MemoryModule(nn.Identity(), slots=2, margin=0.1)
    recall = learner.recall(told(3 * x, y, 3))  # the lengths do not matter
    # 0: empty, so it goes to slot 0. 1: near 0 degrees, right: the key turns to 5 degrees.
    # 2: the nearest says 0, wrong: slot 1 is empty and so the oldest. 3: the nearest is that of
    # 90 degrees, wrong: slot 0 was last touched at step 1, slot 1 at step 2, so slot 0 goes.
    # 4: 90 degrees is nearer than 80, says 1, wrong: slot 1 is older now.
    assert recall.answers.tolist() == [[-1, 0, 0, 1, 1]]
    torch.testing.assert_close(recall.memory.keys[0], directions([80.0, 200.0]))
    assert recall.memory.values.tolist() == [[0, 2]]
    assert recall.memory.ages.tolist() == [[1, 0]]
    # Right and wrong keys are both there at step 3 alone: 5 degrees and 90 degrees.
    assert recall.both.tolist() == [[False, False, False, True, False]]
    apart = (recall.q * (recall.wrong - recall.right)).sum(2)[0, 3]
    assert float(apart) == pytest.approx(math.cos(math.radians(10)) - math.cos(math.radians(75)))


def plain(q, y, slots, margin):
    """One sequence: lists of numbers, the loss and the answers."""
    memory: list[dict] = [{"key": None, "value": -1, "age": 0} for _ in range(slots)]
    losses, answers = [], []
    for query, value in zip(q, y.tolist(), strict=True):
        full = [slot for slot in memory if slot["value"] >= 0]
        by_distance = sorted(full, key=lambda slot: -float(query.detach() @ slot["key"]))
        right = [slot for slot in by_distance if slot["value"] == value]
        wrong = [slot for slot in by_distance if slot["value"] != value]
        if right and wrong:
            losses.append((query @ wrong[0]["key"] - query @ right[0]["key"] + margin).relu())
        else:
            losses.append(query.new_zeros(()))
        answers.append(by_distance[0]["value"] if full else -1)
        for slot in memory:
            slot["age"] += 1
        if answers[-1] == value:
            changed = by_distance[0]
            total = changed["key"] + query.detach()
            changed["key"] = total / total.norm()
        else:
            changed = max(memory, key=lambda slot: slot["age"])
            changed["key"] = query.detach()
        changed["value"], changed["age"] = value, 0
    return torch.stack(losses).mean(), answers, memory


@pytest.mark.parametrize("slots", [3, 5, 40])
def test_losses_gradient_answers_and_memory_are_those_of_a_plain_loop(slots):
    learner = MemoryModule(nn.Linear(4, 6).double(), slots, margin=0.2)
    drawn = sampler(length=20)(5)
    recall, losses = learner.recall(drawn), learner(drawn)
    gradient = torch.autograd.grad(losses.sum(), list(learner.parameters()))
    expected = []
    for n in range(5):
        z = learner.body(drawn.x[n])
        loss, answers, memory = plain(z / z.norm(dim=1, keepdim=True), drawn.y[n], slots, 0.2)
        expected.append(loss)
        assert recall.answers[n].tolist() == answers
        assert recall.memory.values[n].tolist() == [slot["value"] for slot in memory]
        assert recall.memory.ages[n].tolist() == [slot["age"] for slot in memory]
        for key, slot in zip(recall.memory.keys[n], memory, strict=True):
            torch.testing.assert_close(key, key * 0 if slot["key"] is None else slot["key"])
    torch.testing.assert_close(losses, torch.stack(expected))
    assert losses.max() > 0
    plain_gradient = torch.autograd.grad(torch.stack(expected).sum(), list(learner.parameters()))
    torch.testing.assert_close(gradient, plain_gradient)


def test_a_memory_goes_on_where_it_was():
    learner, drawn = MemoryModule(nn.Identity(), slots=7), sampler(length=20)(4)
    whole = learner.recall(drawn)
    first = learner.recall(told(drawn.x[:, :9], drawn.y[:, :9], 3))
    kept = [t.clone() for t in first.memory]
    second = learner.recall(told(drawn.x[:, 9:], drawn.y[:, 9:], 3), first.memory)
    assert torch.equal(torch.cat([first.answers, second.answers], 1), whole.answers)
    assert all(map(torch.equal, second.memory, whole.memory))
    assert all(map(torch.equal, first.memory, kept))  # it was left alone


def test_a_life_long_memory_with_fewer_slots_than_classes_forgets():
    drawn = sampler(ways=6, length=54)(30)
    right = [
        (MemoryModule(nn.Identity(), slots).answers(drawn) == drawn.y)[drawn.presentation > 3]
        for slots in (2, 40)
    ]
    assert right[0].double().mean() < 0.5 < 0.8 < right[1].double().mean()


def test_ages_are_steps_since_a_slot_was_written_or_confirmed():
    x = torch.eye(3)[None].double()[:, [0, 1, 0, 2, 0]]
    y = torch.tensor([[0, 1, 0, 2, 0]])
    memory = MemoryModule(nn.Identity(), slots=4).recall(told(x, y, 3)).memory
    assert memory.ages.tolist() == [[0, 3, 1, 5]]
    assert memory.values.tolist() == [[0, 1, 2, -1]]


def test_an_empty_slot_is_never_the_nearest():
    x = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]]).double()
    recall = MemoryModule(nn.Identity(), slots=5).recall(told(x, torch.tensor([[1, 0]]), 2))
    assert recall.answers.tolist() == [[-1, 1]]


def test_its_body_learns():
    body = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8)).double()
    noisy = sampler(ways=5, length=20)
    learner = MemoryModule(body, slots=20)
    history = meta_train(learner, noisy, 100, 16, meta_lr=0.01, progress=False)
    assert sum(history.losses[-10:]) < 0.7 * sum(history.losses[:10])
    assert by_presentation(learner, sampler(ways=5, length=20, seed=4), 100)[1].mean > 0.6


def test_bad_settings_are_named():
    learner = MemoryModule(nn.Identity(), slots=2)
    with pytest.raises(ValueError, match="slots=2 is a memory smaller than ways=3"):
        learner(sampler()(2))
    learner.answers(sampler()(2))  # to be judged, it may
    with pytest.raises(ValueError, match=r"2 sequences with features 4 need \[2, slots, 4\]"):
        learner.recall(sampler()(2), Slots.empty(3, 2, 4))
    with pytest.raises(ValueError, match="margin=-1"):
        MemoryModule(nn.Identity(), 5, margin=-1)
    with pytest.raises(ValueError, match="slots=0"):
        MemoryModule(nn.Identity(), 0)
    with pytest.raises(ValueError, match="labels run from -1"):
        learner.answers(sampler()(2)._replace(y=sampler()(2).y - 1))


class Blind(nn.Module):
    """Never looks at what it is given."""

    def forward(self, x):
        return torch.ones(len(x), 8)


def test_of_keys_that_are_equal_the_right_one_is_not_known():
    scores = by_presentation(MemoryModule(Blind(), slots=60), sampler(), sequences=200)
    assert max(score.mean for score in scores[:3]) < 0.6
