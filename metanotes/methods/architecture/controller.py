"""A controller: an architecture is a sequence of choices, and a policy draws it.

    P(c) = prod_k P(c_k | c_1 .. c_{k-1}),    J(phi) = E_{c ~ P} R(c)                         (1)

R, the validation accuracy of the trained architecture, has no derivative in phi. What phi gets is
REINFORCE (Williams 1992) with a baseline b, a moving mean of the rewards before:

    grad J = E (R(c) - b) grad log P(c),    b <- d b + (1 - d) R                              (2)

`Controller` is an LSTM, as in Zoph and Le: it is fed with its last choice, and a linear layer for
each place gives the scores of the next. `Softmaxes` has the scores of every place for parameters,
and no memory: its choices are independent.

Source: Zoph and Le, "Neural Architecture Search with Reinforcement Learning", ICLR 2017, section
3.2. Theirs is an LSTM of two layers of 35 units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metanotes._ground.checks import count, fraction
from metanotes._ground.randomness import seeded
from metanotes.methods.architecture.search import Cell, Trail, check_choices

Rewarded = tuple[Tensor, Tensor]  # cells [n, K] and their rewards [n]


class Policy(nn.Module):
    """What draws an architecture choice by choice, and learns which to draw (2).

    A kind of policy says, in `scores`, what the scores of the next choice are. It is trained by
    `policy_search`, or by `meta_train` on what a function draws from it, see `Controller`.

    Args:
        choices: how many options there are at each of the K places.
        decay: d of the baseline, in [0, 1).

    >>> class Uniform(Policy):                                  # and nothing to learn
    ...     def scores(self, k, before, state, n):
    ...         return torch.zeros(n, self.choices[k]), None
    >>> Uniform([2, 3], decay=0.8).log_prob(torch.tensor([[1, 2]])).exp() * 6
    tensor([1.0000])
    """

    baseline: Tensor

    def __init__(self, choices: Sequence[int], decay: float) -> None:
        super().__init__()
        self.choices, self.decay = check_choices(choices), fraction("decay", decay)
        self.register_buffer("baseline", torch.tensor(torch.nan))

    def scores(self, k: int, before: Tensor | None, state: Any, n: int) -> tuple[Tensor, Any]:
        """The scores of choice k, `[n, C_k]`, and what is to be remembered.

        Args:
            k: the place, 0 to K - 1.
            before: choice k - 1, `[n]`; None at the first place.
            state: what was to be remembered at the place before; None at the first.
            n: how many architectures are drawn.
        """
        raise NotImplementedError

    def draw(
        self,
        n: int = 1,
        cells: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """n architectures `[n, K]`, and log P(c) of each, `[n]`, differentiable in phi.

        Args:
            n: how many.
            cells: are gone through instead, `[n, K]`.
            generator: draws them; without it torch's global generator.
        """
        chosen, log_probs = [], []
        before, state = None, None
        for k in range(len(self.choices)):
            scores, state = self.scores(k, before, state, n)
            log_p = scores.log_softmax(1)
            if cells is None:
                p = log_p.detach().exp()
                before = p.multinomial(1, generator=generator)[:, 0]
            else:
                before = cells[:, k]
            chosen.append(before)
            log_probs.append(log_p.gather(1, before[:, None])[:, 0])
        return torch.stack(chosen, 1), torch.stack(log_probs).sum(0)

    @torch.no_grad()
    def sample(self, n: int = 1, *, generator: torch.Generator | None = None) -> Tensor:
        """n architectures: `[n, K]`. Without a generator, torch's global one draws them."""
        return self.draw(count("n", n), generator=generator)[0]

    def log_prob(self, cells: Tensor) -> Tensor:
        """log P(c), differentiable in phi: cells `[n, K]` to `[n]`.

        Raises:
            ValueError: cells of another shape, or a choice that does not exist.
        """
        self.check(cells)
        return self.draw(len(cells), cells)[1]

    def forward(self, rewarded: Rewarded) -> Tensor:
        """- (R - b) log P(c) of each, `[n]`, whose gradient is minus the estimate (2)."""
        cells, rewards = rewarded
        return self.losses(self.log_prob(cells), rewards)

    def losses(self, log_probs: Tensor, rewards: Tensor) -> Tensor:
        """The same of architectures that were just drawn: log P(c) and R(c), `[n]`.

        The baseline moves on afterwards. Before the first rewards it is their mean.
        """
        rewards = torch.as_tensor(rewards).to(self.baseline).detach()
        if rewards.shape != log_probs.shape or not torch.isfinite(rewards).all():
            raise ValueError(
                f"rewards {list(rewards.shape)} must be finite numbers, one for each of the "
                f"{len(log_probs)} cells"
            )
        mean = rewards.mean()
        b = torch.where(self.baseline.isnan(), mean, self.baseline)
        self.baseline.copy_(self.decay * b + (1 - self.decay) * mean)
        return -log_probs * (rewards - b)

    def check(self, cells: Tensor) -> None:
        """Refuse what are no architectures of this space."""
        K = len(self.choices)
        if cells.ndim != 2 or cells.shape[1] != K:
            raise ValueError(f"cells {list(cells.shape)} must be [n, {K}], a choice a place")
        outside = (cells < 0) | (cells >= torch.tensor(self.choices, device=cells.device))
        if outside.any():
            raise ValueError(f"a cell has a choice outside 0 .. C_k - 1 of choices={self.choices}")

    def extra_repr(self) -> str:
        return f"choices={list(self.choices)}, decay={self.decay}"


class Controller(Policy):
    """An LSTM that draws an architecture, choice after choice.

    On the map:
        phi: an LSTM that draws architectures
        adapts: a network from random weights
        outer loss: minus the mean validation accuracy, by REINFORCE
        needs: a training for each draw, no derivative

    Args:
        choices: how many options there are at each of the K places.
        hidden: units of the LSTM, at least 1.
        layers: of the LSTM, at least 1.
        decay: d of the baseline, in [0, 1).
        seed: of the initial weights, uniform between -.08 and .08 as in the paper.

    Raises:
        ValueError: a space with a single architecture, a count below 1, a decay out of range.

    Source: see the module's.

    >>> from metanotes import meta_train
    >>> controller = Controller([4, 4, 4])
    >>> def rewarded(n):                                      # train and validate, in earnest
    ...     cells = controller.sample(n)
    ...     return cells, (cells == 2).double().mean(1)
    >>> history = meta_train(controller, rewarded, 60, tasks=8, meta_lr=0.03, progress=False)
    >>> controller.sample(1)
    tensor([[2, 2, 2]])
    """

    def __init__(
        self,
        choices: Sequence[int],
        hidden: int = 35,
        *,
        layers: int = 1,
        decay: float = 0.8,
        seed: int = 0,
    ) -> None:
        super().__init__(choices, decay)
        width = count("hidden", hidden)
        with seeded(seed):
            self.embeddings = nn.ModuleList(nn.Embedding(size, width) for size in self.choices[:-1])
            self.start = nn.Parameter(torch.empty(width))
            self.lstm = nn.LSTM(width, width, count("layers", layers), batch_first=True)
            self.heads = nn.ModuleList(nn.Linear(width, size) for size in self.choices)
            with torch.no_grad():
                for p in self.parameters():
                    p.uniform_(-0.08, 0.08)

    def scores(self, k: int, before: Tensor | None, state: Any, n: int) -> tuple[Tensor, Any]:
        x = self.start.expand(n, -1) if before is None else self.embeddings[k - 1](before)
        outputs, state = self.lstm(x[:, None], state)  # [n, 1, hidden]
        return self.heads[k](outputs[:, 0]), state


class Softmaxes(Policy):
    """Independent choices: the scores of every place are parameters, at first all zero.

    On the map:
        phi: the probabilities of independent choices
        adapts: a network from random weights
        outer loss: minus the mean validation accuracy, by REINFORCE
        needs: a training for each draw, no derivative

    Args:
        choices: how many options there are at each of the K places.
        decay: d of the baseline, in [0, 1).

    Raises:
        ValueError: a space with a single architecture, a decay out of range.

    >>> policy = Softmaxes([4, 4, 4])
    >>> policy.log_prob(torch.tensor([[0, 3, 2]])).exp() * 64  # all architectures are as likely
    tensor([1.], grad_fn=<MulBackward0>)
    """

    def __init__(self, choices: Sequence[int], *, decay: float = 0.8) -> None:
        super().__init__(choices, decay)
        self.tables = nn.ParameterList(torch.zeros(size) for size in self.choices)

    def scores(self, k: int, before: Tensor | None, state: Any, n: int) -> tuple[Tensor, None]:
        return self.tables[k].expand(n, -1), None


def policy_search(
    policy: Policy,
    reward: Callable[[Cell], float],
    evaluations: int,
    optimizer: torch.optim.Optimizer,
    *,
    generator: torch.Generator | None = None,
) -> Trail:
    """Draw an architecture, see its reward, take a step of phi, and so on: one at a time.

    With several a step, `meta_train` does it, see `Controller`.

    Args:
        policy: is trained on the way.
        reward: of an architecture.
        evaluations: how many to ask for, at least 1.
        optimizer: of the policy's parameters.
        generator: draws the architectures; without it torch's global generator.

    >>> policy, generator = Softmaxes([2, 2]), torch.Generator().manual_seed(0)
    >>> sgd = torch.optim.SGD(policy.parameters(), lr=1.0)
    >>> policy_search(policy, sum, 40, sgd, generator=generator).best()
    (1, 1)
    """
    trail = Trail([], [])
    for _ in range(count("evaluations", evaluations)):
        cells, log_probs = policy.draw(1, generator=generator)
        cell = tuple(cells[0].tolist())
        value = float(reward(cell))
        trail.cells.append(cell)
        trail.rewards.append(value)
        optimizer.zero_grad()
        policy.losses(log_probs, torch.tensor([value])).mean().backward()
        optimizer.step()
    return trail
