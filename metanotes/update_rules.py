"""Update rules: how a step is made from a gradient.

    u_t, s_{t+1} = rule(g_t, s_t),        theta_{t+1} = theta_t + u_t

A rule follows the convention of gradient transformations: `init(theta)` gives the state before the
first step, and calling the rule gives the updates and the next state. It sees dictionaries of
tensors with a leading task axis and works elementwise, so that one call serves all tasks. A rule is
an `nn.Module`; its parameters, if it has any, belong to phi and are meta-learned. Its state is a
tuple of dictionaries of floating-point tensors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

Theta = dict[str, Tensor]
State = tuple[Theta, ...]


class UpdateRule(nn.Module):
    """What every rule has in common: `init(theta)` and `rule(grads, state)`.

    >>> class SignDescent(UpdateRule):
    ...     def forward(self, grads, state):
    ...         return {name: -0.1 * g.sign() for name, g in grads.items()}, state
    >>> SignDescent()({"w": torch.tensor([[3.0, -0.5]])}, ())[0]["w"]
    tensor([[-0.1000,  0.1000]])
    """

    def init(self, theta: Theta) -> State:
        """The state before the first step; `theta` has tensors `[T, ...]`."""
        return ()

    def forward(self, grads: Theta, state: State) -> tuple[Theta, State]:
        """The updates, shaped as the gradients `[T, ...]`, and the next state."""
        raise NotImplementedError


def positive(name: str, value: float) -> float:
    """The value, if it is a finite number above 0; else a ValueError that names it."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value} must be a finite number above 0")
    return float(value)


class Sgd(UpdateRule):
    """Gradient descent: u_t = -lr g_t.

    Args:
        lr: the step size alpha, above 0.

    >>> rule = Sgd(lr=0.5)
    >>> theta = {"w": torch.tensor([[1.0, 2.0]])}
    >>> updates, state = rule({"w": torch.tensor([[4.0, 8.0]])}, rule.init(theta))
    >>> updates["w"]
    tensor([[-2., -4.]])
    """

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = positive("lr", lr)

    def forward(self, grads: Theta, state: State) -> tuple[Theta, State]:
        return {name: -self.lr * g for name, g in grads.items()}, state

    def extra_repr(self) -> str:
        return f"lr={self.lr}"


class Adam(UpdateRule):
    """Adam (Kingma and Ba 2015, algorithm 1), its moments started anew in every task.

        m_t = b1 m_{t-1} + (1 - b1) g_t,    v_t = b2 v_{t-1} + (1 - b2) g_t^2
        u_t = -lr m^_t / (sqrt(v^_t) + eps),    m^_t = m_t / (1 - b1^t),  v^_t = v_t / (1 - b2^t)

    Args:
        lr: the step size, above 0.
        betas: decay of the two moments, each in [0, 1). Reptile uses (0, 0.999).
        eps: added to the denominator. (1e-16 eps^2 is added under its square root as well, too
            little to be seen, so that the step has a derivative where the gradient is exactly 0.)

    >>> rule = Adam(lr=0.1)
    >>> theta = {"w": torch.tensor([[1.0, 2.0]])}
    >>> updates, state = rule({"w": torch.tensor([[3.0, -7.0]])}, rule.init(theta))
    >>> updates["w"]
    tensor([[-0.1000,  0.1000]])
    """

    def __init__(
        self, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__()
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={betas} must both be in [0, 1)")
        self.lr, self.betas, self.eps = positive("lr", lr), betas, positive("eps", eps)

    def init(self, theta: Theta) -> State:
        zeros = {name: torch.zeros_like(t) for name, t in theta.items()}
        time = {"t": next(iter(theta.values())).new_zeros(())}
        return time, zeros, zeros

    def forward(self, grads: Theta, state: State) -> tuple[Theta, State]:
        time, m, v = state
        t, (b1, b2) = time["t"] + 1, self.betas
        m = {name: b1 * m[name] + (1 - b1) * g for name, g in grads.items()}
        v = {name: b2 * v[name] + (1 - b2) * g * g for name, g in grads.items()}
        updates = {
            name: -self.lr
            * (m[name] / (1 - b1**t))
            / (self._root(v[name] / (1 - b2**t)) + self.eps)
            for name in grads
        }
        return updates, ({"t": t}, m, v)

    def _root(self, v: Tensor) -> Tensor:
        return (v + 1e-16 * self.eps**2).sqrt()

    def extra_repr(self) -> str:
        return f"lr={self.lr}, betas={self.betas}, eps={self.eps}"
