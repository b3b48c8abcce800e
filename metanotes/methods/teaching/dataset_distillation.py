"""Dataset distillation: the images, and a rate for each step, that teach any fresh network.

    theta_0 ~ p,    theta_{t+1} = theta_t - eta_t grad l(theta_t; x~, y~),    t = 0 .. k-1      (1)
    L(phi) = E l(theta_k; x, y),    phi = (x~, log eta_0, ..., log eta_{k-1})                   (2)

x~ are a few images, and y~ their labels, which stay. Every step (1) sees all of them. After k steps
the network is judged on real images (2), and the gradient goes back through the steps into the
pixels and the rates. Because the start is drawn anew each time, the images are not for one network
only. The rates are learned as logarithms, so that they stay above 0.

Source: Wang, Zhu, Torralba and Efros, "Dataset Distillation", 2018, algorithm 1, with the
rates of several steps. There each step may have images of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from metanotes._ground.checks import count
from metanotes._ground.randomness import seeded
from metanotes.engine import plain_attention_only
from metanotes.learner import (
    Learner,
    check_outputs,
    check_targets,
    cross_entropy,
    keep_frozen,
    refuse_running_statistics,
)
from metanotes.task import Batch, Inputs, Task, check_tasks
from metanotes.theta import call, losses_and_gradients, over_tasks, trainable
from metanotes.theta.parameters import Theta
from metanotes.theta.seen import check_that_weights_are_seen
from metanotes.update_rules import step_size


class DatasetDistillation(Learner):
    """Learns a few images on which k steps of gradient descent teach a network drawn at random.

    A task is one network. Of the tasks that are drawn, the query sets are the real images on which
    the networks are judged; of the support sets, only how many there are counts, so that
    `metanotes.data.batches` will do. `evaluate` gives the mean over fresh networks.

    On the map:
        phi: a few images, and a rate for each step
        adapts: a network from random weights, k steps
        outer loss: of real images, through the steps
        needs: second derivatives

    Args:
        draw: from a seed to a new network, which maps images `[N, *shape]` to scores
            `[N, classes]`: `lambda seed: mlp(64, 32, 10, seed=seed)`. The seeds come from torch's
            global generator; layers of `torch.nn` that draw their own weights follow them, too.
        inner_lr: the value that every rate starts at, above 0.
        steps: k, at least 1. `adapt` and `evaluate` may take fewer.
        classes: how many there are, at least 2.
        shape: of one image, such as `(1, 28, 28)`.
        per_class: images of each class, at least 1; they start as faint noise, normal with the
            deviation 0.1, in the parameter `images`, `[classes * per_class, *shape]`.

    Raises:
        TypeError: `draw` is no function, or gives no module; in use, inputs that are no tensor.
        ValueError: networks without parameters to train, with frozen ones, running statistics or
            buffers that are drawn, of other classes, or the same for every seed; a number out of
            range; in use, real images of another shape.

    Source: see the module's.

    >>> from metanotes import DatasetDistillation, meta_train
    >>> from metanotes.nets import mlp
    >>> draw = lambda seed: nn.Sequential(nn.Flatten(), mlp(784, 16, 5, seed=seed))
    >>> learner = DatasetDistillation(draw, 0.1, 3, classes=5, shape=(1, 28, 28))
    >>> x, y = torch.rand(4, 20, 1, 28, 28), torch.randint(5, (4, 20))
    >>> history = meta_train(learner, lambda T: Task(*(Batch(x, y),) * 2), 2, 4, progress=False)
    >>> learner.images.shape, learner.rates.shape
    (torch.Size([5, 1, 28, 28]), torch.Size([3]))
    """

    takes_steps = True
    labels: Tensor

    def __init__(
        self,
        draw: Callable[[int], nn.Module],
        inner_lr: float,
        steps: int = 1,
        *,
        classes: int,
        shape: Sequence[int],
        per_class: int = 1,
    ) -> None:
        super().__init__(cross_entropy)
        rate, steps = step_size("inner_lr", inner_lr), count("steps", steps)
        classes, per_class = count("classes", classes, 2), count("per_class", per_class)
        if not callable(draw):
            raise TypeError(
                f"draw is a {type(draw).__name__}; it must be a function that makes a network "
                "of a seed, such as lambda seed: mlp(64, 32, 10, seed=seed)"
            )
        self.draw, self.steps = draw, steps
        self.images = nn.Parameter(0.1 * torch.randn(classes * per_class, *shape))
        self.log_rates = nn.Parameter(torch.full((steps,), math.log(rate)))
        self.register_buffer("labels", torch.arange(classes).repeat_interleave(per_class))
        first, second = (self.network(seed) for seed in (0, 1))
        if all(map(torch.equal, first.parameters(), second.parameters())):
            raise ValueError(
                "draw= gave the same weights for the seeds 0 and 1: make a new network at each "
                "call, from the seed, such as lambda seed: mlp(64, 32, 10, seed=seed)"
            )
        drawn = [
            name
            for (name, a), b in zip(first.named_buffers(), second.buffers(), strict=True)
            if not torch.equal(a, b)
        ]
        if drawn:
            raise ValueError(
                f"draw= gave networks whose buffers {drawn} differ, and only what is taught is "
                "drawn anew: let them be parameters, or the same for every seed"
            )
        images = self.images.detach().to(next(first.parameters()))
        with torch.no_grad():
            output = check_outputs(first(images), self.labels)
        if output != (classes,):
            raise ValueError(
                f"classes={classes}, but the networks of draw= give an image outputs "
                f"{list(output)}: let them have {classes} of them"
            )
        check_that_weights_are_seen(first, self.loss, images, self.labels)
        self.model = first.requires_grad_(False)  # how it computes is used, not its weights

    def train(self, mode: bool = True) -> Self:
        """As of any module; but layers with running statistics, which came frozen, stay frozen."""
        super().train(mode)
        keep_frozen(self)
        return self

    @property
    def rates(self) -> Tensor:
        """eta of every step, `[k]`."""
        return self.log_rates.exp()

    def fresh(self, networks: int) -> Theta:
        """theta_0 of so many networks, drawn anew: tensors `[T, ...]` by name."""
        seeds = torch.randint(2**31, (networks,)).tolist()
        drawn = [trainable(self.network(seed)) for seed in seeds]
        return {
            name: torch.stack([theta[name].detach() for theta in drawn]).to(self.images)
            for name in drawn[0]
        }

    def taught(self, theta: Theta, steps: int | None = None) -> Theta:
        """theta_k (1), from theta_0 `[T, ...]` by name; or after so many steps, at most k."""
        steps = self.steps if steps is None else count("steps", steps, least=0)
        if steps > self.steps:
            raise ValueError(
                f"steps={steps}, but rates were learned for {self.steps}: take at most so many"
            )
        T, rates = len(next(iter(theta.values()))), self.rates
        x, y = (t.expand(T, *t.shape) for t in (self.images, self.labels))
        second_order = torch.is_grad_enabled()
        for t in range(steps):
            with plain_attention_only():
                _, g = losses_and_gradients(self.loss_at, theta, x, y, create_graph=second_order)
            theta = {name: p - rates[t] * g[name] for name, p in theta.items()}
        return theta

    def adapt(self, support: Batch, steps: int | None = None) -> Theta:
        """As many fresh networks as there are tasks, taught: theta by name, tensors `[T, ...]`."""
        return self.taught(self.fresh(len(support.y)), steps)

    def predict(self, adapted: Theta, x: Inputs) -> Tensor:
        """The scores of taught networks: x `[T, M, *shape]` to `[T, M, classes]`."""
        return over_tasks(lambda theta, x: call(self.model, theta, x), predicts=True)(adapted, x)

    def forward(self, tasks: Task) -> Tensor:
        """(2), the loss of fresh networks, taught, on real images: `[T]`."""
        check_tasks(tasks)
        refuse_running_statistics(self.model)
        (x, y), shape = tasks.query, self.images.shape[1:]
        if not isinstance(x, Tensor):
            raise TypeError(
                f"query.x is a dict of {', '.join(map(repr, x))}, and what is learned here is one "
                f"tensor of images: give query.x as a tensor [T, M, {', '.join(map(str, shape))}]"
            )
        if x.shape[2:] != shape:
            raise ValueError(
                f"query.x has images {list(x.shape[2:])}, and the learned ones are "
                f"{list(shape)}: make the learner with shape={tuple(x.shape[2:])}"
            )
        check_targets(self.loss, torch.Size([int(self.labels[-1]) + 1]), y)
        # Not by the engine's door: what is drawn at random cannot be worked out twice and compared.
        return self.query_losses(tasks)

    def loss_at(self, theta: Theta, x: Tensor, y: Tensor) -> Tensor:
        """l(theta; x, y) of one network, a scalar."""
        return self.loss(call(self.model, theta, x), y)

    def network(self, seed: int) -> nn.Module:
        """A network drawn from a seed, if it can be taught."""
        with seeded(seed):
            network = self.draw(seed)
        if not isinstance(network, nn.Module):
            raise TypeError(f"draw= gave a {type(network).__name__}; it must give a module")
        if not trainable(network):
            raise ValueError(
                f"draw= gave a {type(network).__name__} that has no parameter to train: there is "
                "nothing to teach"
            )
        frozen = [name for name, p in network.named_parameters() if not p.requires_grad]
        if frozen:
            raise ValueError(
                f"draw= gave a network whose {', '.join(frozen)} is frozen, and only what is "
                "taught is drawn anew: let all of its parameters require a gradient"
            )
        refuse_running_statistics(network)
        return network

    def extra_repr(self) -> str:
        return f"steps={self.steps}, images={list(self.images.shape)}"
