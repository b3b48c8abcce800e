"""Update rules: how a step is made from a gradient.

    u_t, s_{t+1} = rule(g_t, s_t),        theta_{t+1} = theta_t + u_t

A rule follows the convention of gradient transformations: `init(theta)` gives the state before the
first step, and calling the rule gives the updates and the next state. It sees dictionaries of
tensors with a leading task axis and works elementwise, so that one call serves all tasks. A rule is
an `nn.Module`; its parameters, if it has any, belong to phi and are meta-learned. Its state is a
tuple of dictionaries of floating-point tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metanotes._ground.checks import fraction, positive
from metanotes._ground.modes import in_mode
from metanotes._ground.randomness import seeded
from metanotes.theta.parameters import Theta

__all__ = ["SGD", "Adam", "Momentum", "RMSprop", "UpdateRule"]

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


def check_that_tasks_stay_apart(rule: UpdateRule, theta: Theta, grads: Theta) -> None:
    """Two steps of a rule for two tasks, once more, and with another task in the second's place.

    The rule is in evaluation mode meanwhile: what is to outlive a task, as the moments of the
    published Reptile, is remembered in training mode alone, and the look leaves no trace in it.

    Args:
        rule: what a reader may have written.
        theta, grads: of two tasks, `[2, ...]`.

    Raises:
        ValueError: the updates are not shaped as the gradients, differ from one call to the next,
            or differ in the first task where only the second is another.

    >>> class NormedDescent(UpdateRule):
    ...     def forward(self, grads, state):
    ...         return {name: -0.1 * g / g.norm() for name, g in grads.items()}, state
    >>> two = {"w": torch.ones(2, 3)}
    >>> check_that_tasks_stay_apart(SGD(0.1), two, two)
    >>> check_that_tasks_stay_apart(NormedDescent(), two, two)
    Traceback (most recent call last):
    ValueError: the rule NormedDescent mixes tasks: ...
    """
    name, device = type(rule).__name__, next(iter(grads.values())).device

    def updates(theta: Theta, grads: Theta) -> Theta:
        with seeded(0, device), in_mode(rule, training=False):
            state = rule.init(theta)
            for _ in range(2):
                step, state = rule(grads, state)
        return step

    step = updates(theta, grads)
    if _shapes(step) != _shapes(grads):
        raise ValueError(
            f"the rule {name} gives updates {_shapes(step)} for gradients {_shapes(grads)}: an "
            "update for each gradient, of its shape"
        )
    if not _same(step, updates(theta, grads), slice(2)):
        raise ValueError(
            f"the rule {name} gives something else when it is called once more on the same: what "
            "it has to remember is the state that it returns (what outlives a task, only where "
            "self.training holds), and what it draws comes from torch's global generator"
        )
    others = [
        {name: torch.stack([t[0], -2 * t[1] - 0.1]) for name, t in tensors.items()}
        for tensors in (theta, grads)
    ]
    if not _same(step, updates(*others), slice(1)):
        raise ValueError(
            f"the rule {name} mixes tasks: the update of one depends on the gradients of another. "
            "It sees tensors [T, ...] of T tasks and works on each task by itself; a norm, say, is "
            "g.flatten(1).norm(dim=1), and not g.norm()"
        )


def _shapes(tensors: Theta) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in tensors.items()}


def _same(a: Theta, b: Theta, tasks: slice) -> bool:
    """Whether the updates of these tasks agree but for rounding."""
    return all(
        torch.allclose(a[n][tasks], b[n][tasks], rtol=1e-4, atol=1e-12, equal_nan=True) for n in a
    )


def step_size(name: str, value: float) -> float:
    """A step size, above 0.

    Raises:
        ValueError: names the argument and its value.
    """
    if isinstance(value, Tensor):
        raise ValueError(
            f"{name}={value!r} is a tensor: a step size that is learned is a method of its own, "
            "metanotes.MetaSGD, or the rule LearnedRates; one that is not is a number, float(...)"
        )
    return positive(name, value)


class SGD(UpdateRule):
    """Gradient descent: u_t = -lr g_t.

    Args:
        lr: the step size alpha, above 0.

    >>> rule = SGD(lr=0.5)
    >>> theta = {"w": torch.tensor([[1.0, 2.0]])}
    >>> updates, state = rule({"w": torch.tensor([[4.0, 8.0]])}, rule.init(theta))
    >>> updates["w"]
    tensor([[-2., -4.]])
    """

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = step_size("lr", lr)

    def forward(self, grads: Theta, state: State) -> tuple[Theta, State]:
        return {name: -self.lr * g for name, g in grads.items()}, state

    def extra_repr(self) -> str:
        return f"lr={self.lr}"


class Momentum(UpdateRule):
    """Gradient descent with momentum (Polyak 1964), or Nesterov's form of it.

        m_t = mu m_{t-1} + g_t,    u_t = -lr m_t              momentum
                                   u_t = -lr (g_t + mu m_t)   Nesterov

    Nesterov's step looks ahead: it is momentum's, with the gradient taken where momentum alone
    would lead, in the form of Sutskever et al. (2013) that needs the gradient at theta_t only.

    Args:
        lr: the step size, above 0. Along a constant gradient g the steps grow to -lr g / (1 - mu).
        momentum: mu, how much of the last step goes on, in [0, 1).
        nesterov: whether to look ahead.

    >>> rule = Momentum(lr=0.1, momentum=0.5)
    >>> theta = {"w": torch.tensor([[1.0, 2.0]])}
    >>> state = rule.init(theta)
    >>> for _ in range(3):
    ...     updates, state = rule({"w": torch.tensor([[1.0, -2.0]])}, state)
    >>> updates["w"]                            # -lr (1 + mu + mu^2) g
    tensor([[-0.1750,  0.3500]])
    """

    def __init__(self, lr: float, momentum: float = 0.9, nesterov: bool = False) -> None:
        super().__init__()
        self.lr, self.momentum = step_size("lr", lr), fraction("momentum", momentum)
        self.nesterov = nesterov

    def init(self, theta: Theta) -> State:
        return ({name: torch.zeros_like(t) for name, t in theta.items()},)

    def forward(self, grads: Theta, state: State) -> tuple[Theta, State]:
        (m,) = state
        m = {name: self.momentum * m[name] + g for name, g in grads.items()}
        ahead = {n: g + self.momentum * m[n] for n, g in grads.items()} if self.nesterov else m
        return {name: -self.lr * step for name, step in ahead.items()}, (m,)

    def extra_repr(self) -> str:
        return f"lr={self.lr}, momentum={self.momentum}, nesterov={self.nesterov}"


def smooth_root(v: Tensor, eps: float) -> Tensor:
    """sqrt(v), with a derivative at 0: 1e-16 eps^2 is added under it, too little to be seen; or the
    smallest number that v's type has, if that is more."""
    return (v + max(1e-16 * eps**2, torch.finfo(v.dtype).tiny)).sqrt()


class RMSprop(UpdateRule):
    """RMSprop (Tieleman and Hinton 2012): the gradient over the root of its mean square.

        v_t = rho v_{t-1} + (1 - rho) g_t^2,    u_t = -lr g_t / (sqrt(v_t) + eps)

    Args:
        lr: the step size, above 0.
        decay: rho, of the mean square, in [0, 1); torch calls it alpha.
        eps: added to the denominator. (Under its square root as in `Adam`.)

    >>> rule = RMSprop(lr=0.1, decay=0.75)
    >>> theta = {"w": torch.tensor([[1.0, 2.0]])}
    >>> updates, state = rule({"w": torch.tensor([[3.0, -70.0]])}, rule.init(theta))
    >>> updates["w"]                            # -lr sign(g) / sqrt(1 - rho), at the first step
    tensor([[-0.2000,  0.2000]])
    """

    def __init__(self, lr: float = 1e-2, decay: float = 0.99, eps: float = 1e-8) -> None:
        super().__init__()
        self.lr, self.decay = step_size("lr", lr), fraction("decay", decay)
        self.eps = positive("eps", eps)

    def init(self, theta: Theta) -> State:
        return ({name: torch.zeros_like(t) for name, t in theta.items()},)

    def forward(self, grads: Theta, state: State) -> tuple[Theta, State]:
        (v,) = state
        v = {name: self.decay * v[name] + (1 - self.decay) * g * g for name, g in grads.items()}
        updates = {
            name: -self.lr * g / (smooth_root(v[name], self.eps) + self.eps)
            for name, g in grads.items()
        }
        return updates, (v,)

    def extra_repr(self) -> str:
        return f"lr={self.lr}, decay={self.decay}, eps={self.eps}"


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
        self.lr, self.betas, self.eps = step_size("lr", lr), betas, positive("eps", eps)

    def init(self, theta: Theta) -> State:
        zeros = {name: torch.zeros_like(t) for name, t in theta.items()}
        first = next(iter(theta.values()))  # in bfloat16 b2^t would be 1
        time = {"t": first.new_zeros((), dtype=torch.promote_types(first.dtype, torch.float32))}
        return time, zeros, zeros

    def forward(self, grads: Theta, state: State) -> tuple[Theta, State]:
        time, m, v = state
        t, (b1, b2) = time["t"] + 1, self.betas
        m = {name: b1 * m[name] + (1 - b1) * g for name, g in grads.items()}
        v = {name: b2 * v[name] + (1 - b2) * g * g for name, g in grads.items()}
        updates = {
            name: -self.lr
            * (m[name] / (1 - b1**t))
            / (smooth_root(v[name] / (1 - b2**t), self.eps) + self.eps)
            for name in grads
        }
        return updates, ({"t": t}, m, v)

    def extra_repr(self) -> str:
        return f"lr={self.lr}, betas={self.betas}, eps={self.eps}"
