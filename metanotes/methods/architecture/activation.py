"""A learned activation: phi is the shape of one function, which every unit of a network applies.

    s_phi(x) = (1 - w) phi_k + w phi_{k+1},    x = t_k + w h,    t_k = -B + k h               (1)
    theta_0 ~ U(-1/sqrt(fan in), 1/sqrt(fan in)),    theta_{t+1} = theta_t - alpha grad l(theta_t)
    L(phi, alpha) = sum_n E l^n(theta_k; D_test)                                              (2)

(1) is a piecewise linear function through the values phi at K knots t_k; beyond the last ones it
goes on straight. The weights theta are drawn anew for every task, so that nothing but the shape and
the step sizes, one for each tensor, goes from one task to the next.

Source: after Agostinelli, Hoffman, Sadowski and Baldi, "Learning Activation Functions to Improve
Deep Neural Networks", ICLR workshops 2015, who learn piecewise linear activations together with the
weights. Here the shape is what the inner loop holds fixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from metanotes._ground.checks import count, positive
from metanotes.engine import Computing, recomputed
from metanotes.inner_loop import Descent
from metanotes.inner_loop_learner import InnerLoopLearner
from metanotes.learner import Loss, mse
from metanotes.task import Batch, task_count
from metanotes.theta import trainable
from metanotes.theta.parameters import Theta
from metanotes.update_rules import State, UpdateRule, step_size


class Spline(nn.Module):
    """A piecewise linear function of one number, elementwise (1).

    Args:
        start: the function whose values at the knots it starts with.
        knots: K, at least 2.
        bound: B: the knots lie evenly in [-B, B], above 0.

    Raises:
        ValueError: fewer than two knots, or a bound that is not above 0.

    >>> spline = Spline(torch.tanh, knots=41, bound=4.0)
    >>> x = torch.linspace(-3, 3, 7)
    >>> bool((spline(x) - x.tanh()).abs().max() < 0.01)
    True
    >>> spline.values.shape
    torch.Size([41])
    """

    def __init__(
        self,
        start: Callable[[Tensor], Tensor] = torch.tanh,
        knots: int = 21,
        bound: float = 4.0,
    ) -> None:
        super().__init__()
        self.bound = positive("bound", bound)
        at = torch.linspace(-bound, bound, count("knots", knots, least=2))
        self.values = nn.Parameter(start(at).detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        last = len(self.values) - 1
        place = (x + self.bound) * (last / (2 * self.bound))  # 0 at the first knot, 1 at the next
        k = place.detach().floor().clamp(0, last - 1).long()
        w = place - k
        return torch.lerp(self.values[k], self.values[k + 1], w)

    def extra_repr(self) -> str:
        return f"knots={len(self.values)}, bound={self.bound}"


class Sine(nn.Module):
    """sin(x), elementwise: the activation that waves suggest.

    >>> Sine()(torch.tensor([0.0, torch.pi / 2]))
    tensor([0., 1.])
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.sin()


class TensorRates(UpdateRule):
    """Gradient descent with a learned step size for each tensor, on clipped gradients.

        u_t = -alpha min(1, clip / |g_t|) g_t,    |g_t| over all tensors of a task

    Args:
        names: of the tensors.
        lr: the value that every alpha starts at, above 0. Its logarithm is learned.
        clip: bound on the norm of a task's gradient, above 0.

    Raises:
        ValueError: an lr or a clip that is not above 0.

    >>> rule = TensorRates(["w"], lr=0.1, clip=5.0)
    >>> rule({"w": torch.tensor([[3.0, 4.0], [6.0, 8.0]])}, ())[0]["w"].detach()
    tensor([[-0.3000, -0.4000],
            [-0.3000, -0.4000]])
    """

    def __init__(self, names: Sequence[str], lr: float, clip: float = 10.0) -> None:
        super().__init__()
        self.names, self.clip = tuple(names), positive("clip", clip)
        self.log_rates = nn.Parameter(torch.full((len(self.names),), math.log(step_size("lr", lr))))

    def forward(self, grads: Theta, state: State) -> tuple[Theta, State]:
        squares = torch.stack([g.flatten(1).square().sum(1) for g in grads.values()]).sum(0)  # [T]
        shrink = (self.clip / squares.clamp(min=self.clip**2).sqrt()).clamp(max=1.0)
        rates = dict(zip(self.names, self.log_rates.exp(), strict=True))
        updates = {
            name: -rates[name] * shrink.view(-1, *[1] * (g.ndim - 1)) * g
            for name, g in grads.items()
        }
        return updates, state


class LearnedActivation(InnerLoopLearner):
    """Learns what stands between the layers; the layers are drawn anew for every task.

    On the map:
        phi: the shape of an activation, and a rate for each tensor
        adapts: all layers from random weights, k steps
        outer loss: of the query set, through the steps
        needs: second derivatives, or first_order=True

    Args:
        model: any module. The weights and biases of its linear and convolutional layers are theta,
            drawn from torch's global generator; all its other parameters are phi, such as those of
            a `Spline` that stands between all layers. A model without others, with ReLUs, learns
            the step sizes alone: a fair rival.
        inner_lr: what the step sizes start at, above 0.
        steps: inner steps k in training; `adapt` and `evaluate` may take more.
        clip: bound on the norm of an inner gradient, above 0.
        loss: of one task, inside and outside.
        first_order: hold the inner gradients constant.
        keep_graph, checkpoint, record, compile, group: see `metanotes.engine.Options`.

    Raises:
        ValueError: a model without a linear or convolutional layer, or with one whose weight is
            made of other parameters (`weight_norm` and its like); or see `InnerLoopLearner`.

    Source: see the module's.

    >>> from metanotes import LearnedActivation
    >>> from metanotes.data import sinusoid
    >>> from metanotes.nets import mlp
    >>> spline = Spline(torch.tanh)
    >>> learner = LearnedActivation(mlp(1, 32, 32, 1, activation=lambda: spline), inner_lr=0.05)
    >>> learner(sinusoid(shots=10, queries=10, seed=0)(8)).mean().backward()
    >>> spline.values.grad.shape
    torch.Size([21])
    """

    def __init__(
        self,
        model: nn.Module,
        inner_lr: float,
        steps: int = 10,
        *,
        clip: float = 10.0,
        loss: Loss = mse,
        first_order: bool = False,
        **computing: Unpack[Computing],
    ) -> None:
        bounds = widths_of_draws(model)
        if not bounds:
            raise ValueError(
                f"model={type(model).__name__} has no linear or convolutional layer that could be "
                "drawn: there is no theta"
            )
        super().__init__(
            model,
            TensorRates(list(bounds), step_size("inner_lr", inner_lr), clip),
            steps,
            loss=loss,
            first_order=first_order,
            adapts=list(bounds),
            **computing,
        )
        self.bounds = bounds

    def draw(self, tasks: int) -> Theta:
        """theta_0 of so many tasks, by name, `[T, ...]`."""
        return {
            name: self.bounds[name] * (2 * torch.rand_like(p.detach().expand(tasks, *p.shape)) - 1)
            for name, p in self.phi().items()
        }

    def descend(self, batches: Sequence[Batch], steps: int) -> Theta:
        """theta_k, from weights that are drawn here."""
        descent = Descent(self.task_loss, self.rule, batches, steps, self.first_order)
        theta = self.draw(task_count(batches[0]))
        state = self.rule.init(theta)
        if self.options.checkpoint and torch.is_grad_enabled() and steps > 0:
            learned = [p for p in self.parameters() if p.requires_grad]
            return recomputed(descent.step, theta, state, steps, learned)
        for t in range(steps):
            theta, state = descent.step(t, theta, state)
        return theta

    def body_and_head(self) -> tuple[None, nn.Module]:
        """All of the model is called in every step: what does not adapt lies between the layers."""
        return None, self.model


def widths_of_draws(model: nn.Module) -> dict[str, float]:
    """1/sqrt(fan in) of every parameter of the linear and convolutional layers that is trained.

    >>> widths_of_draws(nn.Sequential(nn.Linear(4, 3), Spline()))
    {'0.weight': 0.5, '0.bias': 0.5}
    """
    names: dict[int, str] = {id(p): name for name, p in trainable(model).items()}
    widths: dict[str, float] = {}
    layers: Any = (nn.Linear, _ConvNd)
    for where, layer in model.named_modules():
        if isinstance(layer, layers):
            if "weight" not in layer._parameters or layer._parameters.keys() - {"weight", "bias"}:
                raise ValueError(
                    f"the weight of the layer {where or type(layer).__name__!r} is made of other "
                    "parameters (weight_norm, perhaps, or another parametrization), which cannot "
                    "be drawn as a weight is: build it without"
                )
            fan_in = layer.weight[0].numel()
            for p in layer.parameters(recurse=False):
                if id(p) in names:
                    widths[names[id(p)]] = fan_in**-0.5
    return widths
