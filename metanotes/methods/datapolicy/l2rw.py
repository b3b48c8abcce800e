"""Learning to reweight examples: each counts as much as it helps the clean ones.

    theta'(eps) = theta - alpha grad_theta sum_i eps_i l_i(theta)                                (1)
    w~_i = max(-d/d eps_i L_val(theta'(eps)), 0)  at eps = 0,    w_i = w~_i / sum_j w~_j         (2)

At eps = 0 no step is taken yet, so that theta' = theta and the derivative is an inner product,

    w~_i = alpha max(grad l_i(theta) . grad L_val(theta), 0):                                    (3)

an example counts if its gradient points where that of the clean ones does. alpha drops out of w.
There is nothing to learn but theta: the weights are worked out anew for every minibatch.

Source: Ren, Zeng, Yang and Urtasun, "Learning to Reweight Examples for Robust Deep Learning", ICML
2018, algorithm 1 and equations 4 to 9.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metanotes.engine import plain_attention_only
from metanotes.learner import Learner, Loss, cross_entropy
from metanotes.methods.datapolicy.examples import (
    check_examples,
    check_model,
    loss_of_each,
    name_of,
    outputs_for,
)
from metanotes.task import Batch, Inputs, Task, select
from metanotes.theta import buffers_apart, call, leaves, over_tasks, trainable
from metanotes.theta.seen import Look


class L2RW(Learner):
    """A model whose minibatches are weighted by what each example does for clean ones.

    A task is a minibatch to train on, its support set, and clean examples, its query set, which may
    be few. A step costs about three of an ordinary one.

    On the map:
        phi: the weights of a model
        adapts: what each example of a minibatch counts
        outer loss: of the minibatch, weighted
        needs: second derivatives; a few clean examples

    Args:
        model: any module; its parameters are what is trained.
        loss: from outputs `[N, ...]` and targets `[N]` or `[N, ...]` to a scalar.

    Raises:
        TypeError: `model` is no module.
        ValueError: the model has nothing to train; in use, an empty validation set, or a model that
            does not see the weights that stand for its own.

    Source: see the module's.

    >>> from metanotes import meta_train
    >>> x, y = torch.randn(1, 100, 5), torch.randint(3, (1, 100))
    >>> tasks = Task(Batch(x, y), Batch(x[:, :10], y[:, :10]))
    >>> learner = L2RW(nn.Linear(5, 3))
    >>> w = learner.weights(tasks)
    >>> w.shape, bool((w >= 0).all())
    (torch.Size([1, 100]), True)
    >>> history = meta_train(learner, lambda T: tasks, 3, tasks=1, progress=False)
    """

    def __init__(self, model: nn.Module, *, loss: Loss = cross_entropy) -> None:
        super().__init__(loss)
        self.model = check_model(model)
        self.look = Look()

    def adapt(self, support: Batch, steps: int | None = None) -> None:
        """Nothing: the model is what was learned."""

    def predict(self, adapted: None, x: Inputs) -> Tensor:
        """The model's outputs: x `[T, M, ...]` to `[T, M, ...]`."""
        return over_tasks(lambda x: call(self.model, {}, x))(x)

    def weights(self, tasks: Task) -> Tensor:
        """w of the support examples, (2): `[T, N]`, constant, each row of sum 1.

        Where no example helps, all are 0, as in the paper: that minibatch is passed over.
        """
        check_examples(tasks)
        (x, y), (x_val, y_val) = tasks
        with torch.enable_grad(), buffers_apart(self.model), plain_attention_only():
            u = over_tasks(self.help_of_each)(x, y, x_val, y_val)
        w = u.clamp(min=0)
        self.look(self.model, self.loss, *select(tasks.query, 0))
        total = w.sum(1, keepdim=True)
        return w / torch.where(total > 0, total, 1)

    def help_of_each(self, x: Inputs, y: Tensor, x_val: Inputs, y_val: Tensor) -> Tensor:
        """-d L_val / d eps at eps = 0 with alpha = 1, of one task: `[N]`."""
        theta = leaves(trainable(self.model))
        phi = list(theta.values())
        losses = loss_of_each(self.loss, outputs_for(self.model, theta, self.loss, x, y), y)
        outputs = outputs_for(self.model, theta, self.loss, x_val, y_val)
        g_val = torch.autograd.grad(self.loss(outputs, y_val), phi, materialize_grads=True)
        eps = torch.zeros_like(losses, requires_grad=True)
        step = torch.autograd.grad(eps @ losses, phi, create_graph=True, materialize_grads=True)
        products = [(a * b).sum() for a, b in zip(step, g_val, strict=True)]
        return torch.autograd.grad(torch.stack(products).sum(), eps)[0]

    def forward(self, tasks: Task) -> Tensor:
        """sum_i w_i l_i, the weights constant: `[T]`."""
        w = self.weights(tasks)
        theta = trainable(self.model)

        def weighted(w: Tensor, x: Inputs, y: Tensor) -> Tensor:
            return w @ loss_of_each(self.loss, outputs_for(self.model, theta, self.loss, x, y), y)

        return over_tasks(weighted)(w, *tasks.support)

    def extra_repr(self) -> str:
        return f"loss={name_of(self.loss)}"
