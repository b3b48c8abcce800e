"""Turns and levels: parts of phi with an optimizer each, against a plain alternating loop."""

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR

from metanotes import meta_train
from metanotes.data import sinusoid
from metanotes.nets import mlp
from tests.sines import parameters


class Search(nn.Module):
    """Weights learned on the support set, how features are mixed on the query set."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(3, 4, 1, seed=3).double()
        self.alpha = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.mode: list[bool] = []

    def losses(self, x, y):
        features = torch.cat((x, x.sin(), x.square() / 10), -1)
        return (self.net(self.alpha.softmax(0) * features) - y).square().mean((1, 2))

    def turns(self, tasks):
        self.mode.append(self.training)
        yield "weights", self.losses(*tasks.support)
        yield "alpha", self.losses(*tasks.query)


def optimizers(search: Search):
    return {
        "weights": torch.optim.SGD(search.net.parameters(), lr=0.02, momentum=0.9),
        "alpha": torch.optim.Adam([search.alpha], lr=0.1),
    }


def search_tasks(seed: int = 0):
    return sinusoid(seed=seed, dtype=torch.float64)


def test_two_levels_take_steps_by_turns():
    ours, plain = Search(), Search()
    each = optimizers(ours)
    schedules = {"alpha": StepLR(each["alpha"], 2, 0.5)}
    history = meta_train(
        ours, search_tasks(), 7, tasks=5, optimizer=each, scheduler=schedules,
        clip={"weights": 0.5}, progress=False,
    )  # fmt: skip
    sampler = search_tasks()
    outer = optimizers(plain)
    levels = {"weights": [], "alpha": []}
    for iteration in range(7):
        tasks = sampler(5)
        for level, batch in (("weights", tasks.support), ("alpha", tasks.query)):
            loss = plain.losses(*batch).mean()
            for p in plain.parameters():
                p.grad = None
            loss.backward()
            if level == "weights":
                nn.utils.clip_grad_norm_(plain.net.parameters(), 0.5)
            outer[level].step()
            levels[level].append(loss.item())
        if iteration % 2 == 1:
            outer["alpha"].param_groups[0]["lr"] /= 2
    assert torch.equal(parameters(ours), parameters(plain))
    assert history.levels == levels
    assert history.losses == [sum(pair) for pair in zip(*levels.values(), strict=True)]
    ax = history.plot(smooth=1)
    assert [line.get_label() for line in ax.lines] == ["weights", "alpha"]
    assert ax.lines[1].get_ydata().tolist() == levels["alpha"]


def test_a_turn_leaves_the_gradients_of_the_other_level_alone():
    search, seen = Search(), []

    def look(iteration, loss, learner):
        seen.append([p.grad.clone() for p in learner.parameters()])

    still = {name: torch.optim.SGD(o.param_groups[0]["params"], lr=1e-9)
             for name, o in optimizers(search).items()}  # fmt: skip
    for _ in range(2):  # a second call, with gradients left from the first
        meta_train(search, search_tasks(), 1, optimizer=still, callback=look, progress=False)
    for first, second in zip(*seen, strict=True):
        torch.testing.assert_close(first, second)
    tasks = search_tasks()(16)
    weights = torch.autograd.grad(search.losses(*tasks.support).mean(), search.net.parameters())
    (alpha,) = torch.autograd.grad(search.losses(*tasks.query).mean(), search.alpha)
    for grad, expected in zip(seen[0], (alpha, *weights), strict=True):
        torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-8)


def test_levels_go_on_from_a_checkpoint_bit_for_bit(tmp_path):
    def trained(search, iterations, **options):
        each = optimizers(search)
        schedules = {name: CosineAnnealingLR(o, 9) for name, o in each.items()}
        history = meta_train(
            search, search_tasks(), iterations, tasks=5, optimizer=each, scheduler=schedules,
            clip=1.0, progress=False, **options,
        )  # fmt: skip
        return history, parameters(search)

    expected = trained(Search(), 9)
    trained(Search(), 4, checkpoint=tmp_path / "run.pt")
    history, phi = trained(Search(), 9, checkpoint=tmp_path / "run.pt")
    assert history == expected[0]
    assert torch.equal(phi, expected[1])
    search = Search()
    swapped = dict(reversed(optimizers(search).items()))
    with pytest.raises(
        ValueError, match=r"another run \(optimizer\): weights: SGD then, alpha: Adam"
    ):
        meta_train(search, search_tasks(), 9, tasks=5, optimizer=swapped, clip=1.0,
                   checkpoint=tmp_path / "run.pt", progress=False)  # fmt: skip


class Alternating(Search):
    """Two steps of the weights, and every second iteration one of alpha."""

    def turns(self, tasks):
        for _ in range(2):
            yield "weights", self.losses(*tasks.support)
        self.mode.append(True)
        if len(self.mode) % 2 == 0:
            yield "alpha", self.losses(*tasks.query)


def test_a_level_may_take_several_turns_or_none():
    search, weights, alphas = Alternating(), [], []

    def look(iteration, loss, learner):
        weights.append(parameters(learner.net))
        alphas.append(learner.alpha.detach().clone())

    history = meta_train(
        search, search_tasks(), 4, optimizer=optimizers(search), callback=look, progress=False
    )
    assert [loss > 0 for loss in history.levels["alpha"]] == [False, True, False, True]
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(alphas[1], alphas[2])
    assert not torch.equal(alphas[0], alphas[1])


class Silent(Search):
    def turns(self, tasks):
        yield from ()


class Constant(Search):
    def turns(self, tasks):
        yield self.losses(*tasks.support).detach()


class Misplaced(Search):
    def turns(self, tasks):
        yield "alpha", self.net(tasks.support.x.expand(-1, -1, 3)).mean((1, 2))


@pytest.mark.parametrize(
    ("make", "several", "message"),
    [
        (Search, False, r"Search takes a turn of 'weights', but optimizer= has \['phi'\]: give a"),
        (Silent, False, r"Silent.turns\(tasks\) yields no losses"),
        (Constant, False, "Constant gave losses that do not depend on its parameters"),
        (
            Constant,
            True,
            r"Constant takes a turn of 'phi', but optimizer= has \['weights', 'alpha'",
        ),
        (
            Misplaced,
            True,
            r"loss of iteration 1 \(alpha\) does not depend on what its optimizer moves",
        ),
    ],
)
def test_turns_that_cannot_be_taken_are_refused(make, several, message):
    search = make()
    before = parameters(search)
    optimizer = optimizers(search) if several else None
    with pytest.raises(ValueError, match=message):
        meta_train(search, search_tasks(), 1, optimizer=optimizer, progress=False)
    assert torch.equal(parameters(search), before)
