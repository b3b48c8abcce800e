"""A step-size controller, trained by reinforcement learning (after Daniel et al. 2016).

    theta_{t+1} = theta_t - alpha_t grad f(theta_t),    log alpha_t = log alpha_{t-1} + a_t      (1)
    a_t ~ N(w . s_t, sigma^2),    s_t = (1, [t = 0], tanh(log f_t - log f_{t-1}), cos(g_t, g_{t-1}))

The reward of a step is how far the logarithm of f comes down, r_t = log f_t - log f_{t+1}. The
actions are sampled, so that nothing is differentiated through f. What phi = w gets is
REINFORCE (Williams 1992), with the rewards still to come, R_t = r_t + ... + r_{T-1}:

    grad J = E sum_t (R_t - b_t) grad log p(a_t | s_t)                                           (2)

b_t is the mean R_t of the other rollouts on the same function: independent of a_t, so that it
changes the variance of (2) and not its mean.

Daniel, Taylor and Nowozin trained another policy by another search; this is the idea in the small.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metanotes._ground.checks import count, positive
from metanotes.methods.optimizers.function_values import (
    check_functions,
    first_look,
    next_batch,
    values_at,
)
from metanotes.task import Batch, Functions, Of, map_tensors
from metanotes.theta import How
from metanotes.theta.parameters import Theta


class Rollout(NamedTuple):
    """What T descents under a policy saw and did.

    Args:
        losses: f(theta_0) to f(theta_k), `[T, k + 1]`.
        rates: alpha_0 to alpha_{k-1}, `[T, k]`.
        log_probs: log p(a_t | s_t), `[T, k]`, differentiable in phi.
        rewards: r_t, `[T, k]`.

    >>> from metanotes.data import quadratics
    >>> controller = StepSizeController(lr=0.01, steps=20)
    >>> controller.rollout(quadratics(dim=3, seed=0)(8)).losses.shape
    torch.Size([8, 21])
    """

    losses: Tensor
    rates: Tensor
    log_probs: Tensor
    rewards: Tensor


class StepSizeController(nn.Module):
    """A Gaussian policy over the change of the logarithm of the step size.

    On the map:
        phi: a policy of step sizes
        adapts: what it is to minimise, T steps
        outer loss: minus the rewards of sampled descents, by REINFORCE
        needs: nothing of the descent but its values and gradients

    Args:
        lr: alpha_{-1}, what the first action changes; above 0.
        steps: k of a descent, at least 1.
        spread: sigma, above 0.
        copies: rollouts of each function in training, at least 2.

    Raises:
        ValueError: a value out of its range, or a loss that is not above 0.

    Source: after Daniel, Taylor and Nowozin, "Learning Step Size Controllers for Robust Neural
    Network Training", AAAI 2016.

    >>> from metanotes.data import quadratics
    >>> controller = StepSizeController(lr=0.01, steps=20)
    >>> rollout = controller.rollout(quadratics(seed=0)(64))
    >>> rollout.losses.shape, rollout.rates.shape
    (torch.Size([64, 21]), torch.Size([64, 20]))
    >>> sum(p.numel() for p in controller.parameters())
    4

    It is trained as any learner. The losses in the history are no measure of success, their
    gradient is; judge the controller by the losses of `rollout`.

    >>> from metanotes import meta_train
    >>> controller = StepSizeController(lr=0.001, steps=5)
    >>> history = meta_train(
    ...     controller, quadratics(seed=0), iterations=30, meta_lr=0.03, clip=1.0, progress=False
    ... )
    >>> bool(controller.weight[:2].sum() > 0)               # it takes larger steps
    True
    """

    def __init__(
        self, lr: float = 0.01, steps: int = 20, *, spread: float = 0.2, copies: int = 8
    ) -> None:
        super().__init__()
        self.lr, self.spread = positive("lr", lr), positive("spread", spread)
        self.steps, self.copies = count("steps", steps), count("copies", copies, least=2)
        self.weight = nn.Parameter(torch.zeros(4))

    def rollout(
        self, functions: Functions, noise: Tensor | None = None, steps: int | None = None
    ) -> Rollout:
        """Descend every function once.

        Args:
            functions: T of them, with losses above 0.
            noise: (a_t - w . s_t) / sigma, `[T, k]`; drawn if it is None, and 0 in testing.
            steps: k, at least 1; default: as in training.

        Raises:
            ValueError: steps below 1, noise of another shape, or a loss that is not above 0.
        """
        steps = self.steps if steps is None else count("steps", steps)
        theta = check_functions(functions)
        like = next(iter(theta.values()))
        if noise is None:
            noise = torch.randn(len(like), steps, dtype=like.dtype)
        noise = torch.as_tensor(noise).to(like)
        if noise.shape != (len(like), steps):
            raise ValueError(
                f"noise is {list(noise.shape)}; for {len(like)} functions and {steps} steps it "
                f"must be [{len(like)}, {steps}]"
            )
        log_rate = torch.full_like(noise[:, 0], self.lr).log()
        losses: list[Tensor] = []
        rates, log_probs = [], []
        before: Tensor | None = None
        batch = next_batch(functions)
        how = first_look(functions, theta, batch)
        for t in range(steps):
            loss, grads = _evaluate(functions, theta, batch, how)
            flat = torch.cat([g.reshape(len(g), g[0].numel()) for g in grads.values()], 1)
            one, nought = torch.ones_like(loss), torch.zeros_like(loss)
            change, agreement = nought, nought
            if before is not None:
                change = (loss.log() - losses[-1].log()).tanh()
                agreement = torch.cosine_similarity(flat, before, dim=1)
            state = torch.stack([one, one if t == 0 else nought, change, agreement], 1)  # [T, 4]
            mean = state @ self.weight.to(state.dtype)
            action = (mean + self.spread * noise[:, t]).detach()
            log_probs.append(-((action - mean) ** 2) / (2 * self.spread**2))  # up to a constant
            log_rate = log_rate + action
            rate = log_rate.exp()
            theta = {
                name: t - rate.view(-1, *[1] * (t.ndim - 1)) * grads[name]
                for name, t in theta.items()
            }
            losses.append(loss)
            rates.append(rate)
            before, batch = flat, next_batch(functions)
        losses.append(_evaluate(functions, theta, batch, how)[0])
        way = torch.stack(losses, 1)
        rewards = way[:, :-1].log() - way[:, 1:].log()
        return Rollout(way, torch.stack(rates, 1), torch.stack(log_probs, 1), rewards)

    def forward(self, functions: Functions) -> Tensor:
        """A loss of each function, `[T]`, whose gradient is minus the estimate (2)."""
        rollout = self.rollout(_copied(functions, self.copies))
        log_probs, rewards = (
            part.view(-1, self.copies, part.shape[1])
            for part in (rollout.log_probs, rollout.rewards)
        )
        return reinforce(log_probs, rewards).mean(1)

    def extra_repr(self) -> str:
        return f"lr={self.lr}, steps={self.steps}, spread={self.spread}, copies={self.copies}"


def reinforce(log_probs: Tensor, rewards: Tensor, baseline: bool = True) -> Tensor:
    """- sum_t log p(a_t | s_t) (R_t - b_t), whose gradient is minus the estimate (2).

    Args:
        log_probs: `[..., n, k]`, of n independent rollouts on the same function.
        rewards: as log_probs; held constant.
        baseline: whether b_t is the mean R_t of the other n - 1 rollouts, or 0.

    Returns:
        `[..., n]`.

    Raises:
        ValueError: the shapes differ, or a single rollout has to be its own baseline.

    >>> log_probs = torch.zeros(2, 3, requires_grad=True)               # 2 rollouts, 3 steps
    >>> rewards = torch.tensor([[1.0, 2.0, 3.0], [1.0, 0.0, 0.0]])
    >>> reinforce(log_probs, rewards).sum().backward()
    >>> log_probs.grad
    tensor([[-5., -5., -3.],
            [ 5.,  5.,  3.]])
    """
    rewards = torch.as_tensor(rewards).detach()
    if log_probs.shape != rewards.shape or log_probs.ndim < 1 + baseline:
        raise ValueError(
            f"log_probs {list(log_probs.shape)} and rewards {list(rewards.shape)} must both be "
            "[..., n, k], of n rollouts of k steps"
        )
    if not rewards.is_floating_point():
        rewards = rewards.to(log_probs.dtype)
    to_go = rewards.flip(-1).cumsum(-1).flip(-1)
    if baseline:
        n = to_go.shape[-2]
        if n < 2:
            raise ValueError(f"a baseline needs the other rollouts: {n} is too few, at least 2")
        to_go = (to_go - to_go.mean(-2, keepdim=True)) * (n / (n - 1))
    return -(log_probs * to_go).sum(-1)


def _evaluate(functions: Functions, theta: Theta, batch: Batch, how: How) -> tuple[Tensor, Theta]:
    """f(theta), `[T]`, and its gradient, both constant."""
    losses, grads = values_at(functions, theta, batch, how)
    losses = losses.detach()
    if not (losses > 0).all():
        least = float(losses.min())
        raise ValueError(f"the least loss is {least}: a reward in logarithms needs > 0")
    return losses, grads


def _copied(functions: Functions, copies: int) -> Functions:
    """Each function several times, one after the other: T becomes T copies."""
    theta = check_functions(functions)

    def batches() -> Iterator[Batch]:
        while True:
            yield _repeated(next_batch(functions), copies)

    return Functions(functions.loss, _repeated(theta, copies), batches())


def _repeated(tensors: Of, copies: int) -> Of:
    """`[T, ...]` to `[T copies, ...]`."""
    return map_tensors(lambda t: t.repeat_interleave(copies, 0), tensors)
