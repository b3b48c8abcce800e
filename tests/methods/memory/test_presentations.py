"""Accuracy by presentation."""

import pytest
import torch
from torch import nn

from metanotes import MemoryModule, SequenceLearner
from metanotes.data import glyphs, sequences
from metanotes.methods.memory import Counting, by_presentation, presentation_accuracy
from metanotes.nets import conv4, lstm, transformer
from tests.methods.memory.remembered import sampler, told


class Knows(nn.Module):
    """Is right from the second presentation on, and at the first where the label is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def answers(self, drawn):
        self.seen.append(len(drawn.y))
        assert not self.training
        return torch.where(drawn.presentation > 1, drawn.y, 0)


def test_each_presentation_is_judged_by_itself():
    learner = Knows()
    scores = by_presentation(learner, sampler(ways=3, length=8), 120)
    assert [len(score.values) for score in scores] == [120] * 3  # two, and for two of three a third
    assert scores[0].mean == pytest.approx(1 / 3)
    assert [score.mean for score in scores[1:]] == [1, 1]
    assert scores[0].ci95 == pytest.approx(0, abs=1e-12)
    assert learner.seen == [50, 25, 50, 20]  # the second is the test for looking ahead
    assert learner.training
    assert str(scores[1]) == "100.0 ± 0.0 % (120 sequences, not transductive)"


def test_it_is_what_a_loop_says_where_presentations_are_missing():
    y = torch.tensor([[0, 0, 0, 1], [0, 1, 2, 1], [2, 1, 0, 0]])
    drawn = told(torch.zeros(3, 4, 1), y, 3)
    answers = torch.tensor([[0, 1, 0, 1], [1, 1, 1, 1], [2, 2, 2, 2]])
    found = presentation_accuracy(answers, drawn)
    expected = torch.full((3, 3), torch.nan, dtype=torch.float64)
    for n in range(3):
        for p in range(1, 4):
            at = [t for t in range(4) if int((y[n, : t + 1] == y[n, t]).sum()) == p]
            if at:
                expected[n, p - 1] = sum(int(answers[n, t] == y[n, t]) for t in at) / len(at)
    torch.testing.assert_close(found, expected, equal_nan=True)

    class Said:
        def answers(self, part):
            return answers[: len(part.y), : part.y.shape[1]]

    scores = by_presentation(Said(), lambda _: drawn, 3)
    assert [len(score.values) for score in scores] == [3, 3, 1]


def test_the_same_sampler_gives_the_same_sequences_whatever_their_number():
    draw = sampler()
    draw(7)
    few, many = (by_presentation(Counting(3), draw, n) for n in (60, 130))
    for a, b in zip(few, many, strict=True):
        assert torch.equal(a.values, b.values[:60])


def test_counting_on_characters_is_at_the_derived_chance():
    scores = by_presentation(Counting(5), sequences(glyphs("evaluation"), 5, 50), 1000)
    assert abs(scores[0].mean - 137 / 300) < scores[0].ci95 * 1.5


def test_what_looks_ahead_or_mixes_sequences_is_refused():
    ahead = SequenceLearner(transformer(7, 3, 16, 2, 1), ways=3).double()
    with pytest.raises(ValueError, match="looks ahead"):
        by_presentation(ahead, sampler(length=20), 50)
    drawn = sequences(glyphs("evaluation"), 5, 20)
    with pytest.raises(ValueError, match="mixes examples"):
        by_presentation(MemoryModule(conv4(None, 4), 50), drawn, 50)
    right = MemoryModule(conv4(None, 4, running_statistics=True), 50)
    assert len(by_presentation(right, drawn, 50)) == 4


def test_too_few_sequences_are_refused():
    learner = SequenceLearner(lstm(7, 3, 4), ways=3)
    with pytest.raises(ValueError, match="sequences=1 is too few"):
        by_presentation(learner, sampler(), 1)
