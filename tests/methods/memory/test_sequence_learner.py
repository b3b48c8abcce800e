"""Learners of sequences: what they may see, and what they refuse."""

from fractions import Fraction
from itertools import permutations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from metanotes import MANN, MemoryModule, SequenceLearner, meta_train
from metanotes.methods.memory import Counting, by_presentation, check_sequences
from metanotes.nets import lstm, transformer
from tests.methods.memory.remembered import sampler, told

LEARNERS = {
    "MANN": lambda: MANN(4, 3, hidden=6, slots=5, width=7, heads=2),
    "LSTM": lambda: SequenceLearner(lstm(7, 3, hidden=6), ways=3),
    "transformer": lambda: SequenceLearner(
        transformer(7, 3, 8, 2, 2, causal=True, positions=8), ways=3
    ),
    "memory module": lambda: MemoryModule(nn.Linear(4, 6), slots=9),
    "counting": lambda: Counting(ways=3),
}
NETS = [name for name in LEARNERS if name not in ("counting", "memory module")]


@pytest.mark.parametrize("name", NETS)
def test_the_loss_is_the_cross_entropy_of_all_answers(name):
    learner, drawn = LEARNERS[name]().double(), sampler()(5)
    logits = learner.logits(drawn)
    by_hand = [
        sum(-logits[n, t].log_softmax(0)[drawn.y[n, t]] for t in range(8)) / 8 for n in range(5)
    ]
    torch.testing.assert_close(learner(drawn), torch.stack(by_hand))
    assert torch.equal(learner.answers(drawn), logits.argmax(2))


@pytest.mark.parametrize("name", NETS)
def test_an_answer_depends_on_what_came_before_and_on_its_own_example_alone(name):
    learner, drawn = LEARNERS[name]().double(), sampler()(5)
    x, previous = (t.clone().requires_grad_() for t in (drawn.x, drawn.previous))
    logits = learner.net(torch.cat([x, previous], 2)).square().sum((0, 2))
    for t in range(8):
        by_x, by_previous = torch.autograd.grad(logits[t], (x, previous), retain_graph=True)
        assert (by_x[:, t + 1 :] == 0).all()
        assert (by_previous[:, t + 1 :] == 0).all()  # previous[t] is y[t - 1]
        assert (by_x[:, : t + 1].abs().sum(2) > 0).all()
        assert (by_previous[:, : t + 1].abs().sum(2) > 0).all()


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("t", [0, 3, 7])
def test_an_answer_stays_if_the_labels_from_there_on_and_the_later_examples_change(name, t):
    learner, drawn = LEARNERS[name]().double(), sampler()(20)
    g = torch.Generator().manual_seed(3)
    x, y = drawn.x.clone(), drawn.y.clone()
    x[:, t + 1 :] = torch.randn(x[:, t + 1 :].shape, generator=g, dtype=x.dtype)
    y[:, t:] = torch.randint(3, y[:, t:].shape, generator=g)
    other = told(x, y, 3)
    assert torch.equal(learner.answers(drawn)[:, : t + 1], learner.answers(other)[:, : t + 1])


@pytest.mark.parametrize("name", NETS)
def test_sequences_of_a_batch_do_not_meet(name):
    learner, drawn = LEARNERS[name]().double(), sampler()(5)
    alone = type(drawn)(*(t[2:3] for t in drawn))
    torch.testing.assert_close(learner(alone), learner(drawn)[2:3])


def test_counting_is_right_at_the_first_presentation_as_often_as_derived():
    """Every order in which the classes may be shown, each with its chance: none is left out."""
    for ways in (2, 3, 4):
        orders = torch.tensor(sorted(set(permutations(list(range(ways)) * 2))))
        drawn = told(torch.zeros(*orders.shape, 1), orders, ways)
        first = drawn.presentation == 1
        right = (Counting(ways).answers(drawn) == orders) & first
        share = Fraction(int(right.sum()), int(first.sum()))
        assert share == sum(Fraction(1, n) for n in range(1, ways + 1)) / ways
    assert float(sum(Fraction(1, n) for n in range(1, 6)) / 5) == pytest.approx(0.457, abs=5e-4)


def test_counting_names_what_was_shown_least_often():
    drawn = sampler(length=20)(30)
    for y, answers in zip(drawn.y, Counting(3).answers(drawn), strict=True):
        shown = [0, 0, 0]
        for label, answer in zip(y.tolist(), answers.tolist(), strict=True):
            assert answer == shown.index(min(shown))
            shown[label] += 1


@pytest.mark.parametrize("name", [*NETS, "memory module"])
def test_training_goes_on_from_a_checkpoint_bit_for_bit(name, tmp_path):
    def train(iterations, path):
        learner = LEARNERS[name]().double()
        torch.manual_seed(0)
        history = meta_train(
            learner, sampler(), iterations, 4, checkpoint=path, checkpoint_every=2, progress=False
        )
        return learner, history

    whole, history = train(6, tmp_path / "whole.pt")
    train(3, tmp_path / "parts.pt")
    parts, again = train(6, tmp_path / "parts.pt")
    assert history.losses == again.losses
    assert all(map(torch.equal, whole.parameters(), parts.parameters()))
    assert all(len(losses) == 6 for losses in (history.losses, again.losses))


def test_bad_sequences_are_named_before_any_work():
    net = nn.Linear(7, 3).double()
    net.register_forward_hook(lambda *_: pytest.fail("it was used"))
    learner, drawn = SequenceLearner(net, ways=3), sampler()(2)

    def refused(error, match, **changed):
        with pytest.raises(error, match=match):
            learner(drawn._replace(**changed))

    refused(
        TypeError,
        "x is a list, not a tensor: all sequences of a batch have the same length",
        x=[drawn.x[0], drawn.x[1, :5]],
    )
    refused(ValueError, "differ in their number of sequences or steps", y=drawn.y[:, :5])
    refused(ValueError, "differ in their number", presentation=drawn.presentation[:1])
    refused(ValueError, "at least one step", y=drawn.y[:, :0])
    refused(
        ValueError,
        "labels run from 0 to 3, .* labels are 0 to 2",
        y=drawn.y.index_fill(1, torch.tensor([7]), 3),
    )
    refused(ValueError, "labels run from -1", y=drawn.y - 1)
    refused(ValueError, "labels run from", y=drawn.y.double())
    refused(ValueError, "NaN", x=drawn.x * torch.nan)
    refused(
        ValueError,
        "previous is not the label of the step before",
        previous=F.one_hot(drawn.y, 3).double(),
    )
    refused(ValueError, "previous is not", previous=drawn.previous + 1)
    with pytest.raises(ValueError, match="ways=4 and the learner was made for ways=3"):
        learner(sampler(ways=4)(2))
    with pytest.raises(TypeError, match=r"takes Sequences.* got Tensor"):
        learner(drawn.x)
    check_sequences(drawn)


def test_a_net_of_another_size_is_named():
    with pytest.raises(ValueError, match=r"net gives \[2, 8, 4\]; it must give logits \[2, 8, 3\]"):
        SequenceLearner(nn.Linear(7, 4).double(), ways=3)(sampler()(2))
    with pytest.raises(ValueError, match="ways=0 must be a whole number"):
        SequenceLearner(nn.Linear(7, 4), ways=0)


@pytest.mark.parametrize(
    "learner",
    [MANN(4, 3, hidden=24, slots=12, width=12), SequenceLearner(lstm(7, 3, hidden=32), ways=3)],
)
def test_it_learns_to_remember_what_counting_cannot_know(learner):
    learner.double()
    meta_train(learner, sampler(), 300, 32, meta_lr=0.01, progress=False)
    second, by_counting = (
        by_presentation(judged, sampler(seed=5), 200)[1].mean for judged in (learner, Counting(3))
    )
    assert second > by_counting + 0.1
