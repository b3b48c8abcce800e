"""DARTS: the architecture is learned by a gradient, as any other parameter.

    alpha* = argmin L_val(w*(alpha), alpha),    w*(alpha) = argmin L_train(w, alpha)          (1)

w* is out of reach, and one step of descent stands in for it, w' = w - xi grad_w L_train(w, alpha):

    grad_alpha L_val(w', alpha) = d_alpha - xi d2L_train/dalpha dw v                          (2)
    d_alpha = dL_val/dalpha (w', alpha),    v = dL_val/dw (w', alpha)

First order is xi = 0. The product of the mixed second derivative with v is exact where autograd
goes through the step; or it is a finite difference: two more gradients, and no graph of one.

    d2L_train/dalpha dw v = (dL_train/dalpha (w + e v) - dL_train/dalpha (w - e v)) / 2 e     (3)
    e = length / |v|,    0.01 / |v| in the paper

alpha and w take their steps by turns.

Source: Liu, Simonyan and Yang, "DARTS: Differentiable Architecture Search", ICLR 2019, section 2.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from metanotes._ground.checks import nonnegative, positive
from metanotes._ground.randomness import random_state, replayed
from metanotes.engine import plain_attention_only
from metanotes.learner import Loss, check_outputs, check_targets, cross_entropy
from metanotes.methods.architecture.mixed_operation import Choice, best_choice, edges
from metanotes.task import Batch, Inputs, Task, check_tasks, select
from metanotes.theta import buffers_apart, call, trainable
from metanotes.theta.gradients import one_number
from metanotes.theta.parameters import Theta
from metanotes.theta.seen import Look

MixedProduct = Literal["finite difference", "exact"]


class DARTS(nn.Module):
    """Learns the alphas of a network on query sets, and its other weights on support sets.

    A task is a minibatch of the training set, its support set, and one of the validation set, its
    query set. `meta_train` takes a turn of "alpha" and a turn of "weights" on each.

    On the map:
        phi: the weight of each operation
        adapts: all other weights of the network, by turns
        outer loss: of a validation set, after one step or none
        needs: first derivatives; all operations at once in memory

    Args:
        net: any module from `[N, ...]` to `[N, ...]` that holds mixed operations
            (`MixedOperation`).
        inner_lr: xi, the length of the step that alpha looks ahead, of at least 0, which is first
            order. The paper takes the rate of w.
        mixed_product: of second order, how the last term of (2) is worked out: "finite difference",
            (3), or "exact".
        length: of e v in (3), above 0; default: the paper's.
        loss: of one minibatch.

    Raises:
        ValueError: a net without a mixed operation or without other weights, a negative inner_lr,
            or another name of a mixed product; in use, targets that outputs cannot be compared
            with, or a loss that is no scalar.

    >>> from metanotes import DARTS, meta_train
    >>> from metanotes.methods.architecture import CellNetwork
    >>> darts = DARTS(CellNetwork(), inner_lr=0.05)
    >>> tasks = Task(*(Batch(torch.rand(1, 20, 1, 8, 8), torch.arange(20)[None] % 10),) * 2)
    >>> optimizer = {
    ...     "alpha": torch.optim.Adam(darts.alphas.values(), lr=0.03),
    ...     "weights": torch.optim.SGD(darts.weights.values(), lr=0.05, momentum=0.9),
    ... }
    >>> history = meta_train(darts, lambda _: tasks, 2, 1, optimizer=optimizer, progress=False)
    >>> len(darts.choice())                                   # an operation for each edge
    3
    """

    def __init__(
        self,
        net: nn.Module,
        inner_lr: float = 0.0,
        *,
        mixed_product: MixedProduct = "finite difference",
        length: float = 0.01,
        loss: Loss = cross_entropy,
    ) -> None:
        super().__init__()
        if mixed_product not in ("finite difference", "exact"):
            raise ValueError(
                f'mixed_product={mixed_product!r} must be "finite difference" or "exact"'
            )
        self.length = positive("length", length)
        edges(net)
        self.net, self.loss, self.look = net, loss, Look()
        self.inner_lr, self.mixed_product = nonnegative("inner_lr", inner_lr), mixed_product
        if not self.weights:
            raise ValueError(
                f"{type(net).__name__} has no parameters but its alphas: w, which the inner "
                "problem learns, is empty"
            )

    @property
    def alphas(self) -> Theta:
        """The alphas by name, each once."""
        own = {id(alpha) for alpha in edges(self.net)}
        return {name: p for name, p in trainable(self.net).items() if id(p) in own}

    @property
    def weights(self) -> Theta:
        """w, all other parameters, by name."""
        alphas = self.alphas
        return {name: p for name, p in trainable(self.net).items() if name not in alphas}

    def choice(self) -> Choice:
        """The operation with the largest alpha on every edge."""
        return best_choice(self.net)

    def turns(self, tasks: Task) -> Iterator[tuple[str, Tensor]]:
        """The two levels by turns, each with its losses `[T]`."""
        yield "alpha", self(tasks)
        losses = [self.value(self.weights, *task.support) for task in of(tasks)]
        yield "weights", torch.stack(losses)

    def forward(self, tasks: Task) -> Tensor:
        """L_val(w', alpha) of each task, `[T]`, whose gradient in alpha is (2).

        What is only tried out leaves no trace in running statistics.
        """
        with buffers_apart(self.net):
            losses = [self.validation_loss(task) for task in of(tasks)]
            with plain_attention_only():
                self.look(self.net, self.loss, *select(tasks.query, 0))
            return torch.stack(losses)

    def validation_loss(self, task: Task) -> Tensor:
        """`forward` of one task, without a task axis."""
        w = self.weights
        if self.inner_lr == 0:
            return self.value(w, *task.query)
        if self.mixed_product == "exact":
            return self.value(self.ahead(w, task.support, create_graph=True), *task.query)
        return self.by_finite_difference(w, task)

    def ahead(self, w: Theta, train: Batch, create_graph: bool = False) -> Theta:
        """w' = w - xi grad_w L_train(w, alpha)."""
        with plain_attention_only():
            grads = gradients(self.value(w, *train), w, create_graph)
        return {name: p - self.inner_lr * grads[name] for name, p in w.items()}

    def by_finite_difference(self, w: Theta, task: Task) -> Tensor:
        """L_val(w', alpha), as a function of alpha whose gradient is (2) with (3)."""
        alphas, first = self.alphas, next(iter(w.values()))
        before = random_state(first.device)
        look = {
            name: p.detach().requires_grad_() for name, p in self.ahead(w, task.support).items()
        }
        value = self.value(look, *task.query)
        every = gradients(value, {**alphas, **look})
        v = {name: every[name] for name in w}
        norm = torch.stack([g.square().sum() for g in v.values()]).sum().sqrt()
        e = self.length / norm.clamp(min=torch.finfo(norm.dtype).tiny)  # v may be 0

        def at(s: int) -> Theta:
            """dL_train/dalpha (w + s e v), with the dropout of the step ahead."""
            moved = {n: p.detach() + s * e * v[n] for n, p in w.items()}
            with replayed(before, first.device):
                return gradients(self.value(moved, *task.support), alphas)

        plus, minus = at(1), at(-1)
        result = value.detach()
        for name, alpha in alphas.items():
            gradient = every[name] - self.inner_lr * (plus[name] - minus[name]) / (2 * e)
            result = result + ((alpha - alpha.detach()) * gradient).sum()
        return result

    def value(self, w: Theta, x: Inputs, y: Tensor) -> Tensor:
        """L(w, alpha) on a batch: x `[N, ...]`, y `[N, ...]`, to a scalar."""
        outputs = call(self.net, w, x)
        check_targets(self.loss, check_outputs(outputs, y), y[None])
        return one_number(self.loss(outputs, y))

    def extra_repr(self) -> str:
        return f"inner_lr={self.inner_lr}, mixed_product={self.mixed_product!r}"


def of(tasks: Task) -> Iterator[Task]:
    """Task by task, without the task axis."""
    check_tasks(tasks)
    for n in range(len(tasks.query.y)):
        yield select(tasks, n)


def gradients(value: Tensor, at: Theta, create_graph: bool = False) -> Theta:
    """The gradient of a scalar by name; 0 where it does not depend on a tensor."""
    grads = torch.autograd.grad(
        value, list(at.values()), create_graph=create_graph, materialize_grads=True
    )
    return dict(zip(at, grads, strict=True))
