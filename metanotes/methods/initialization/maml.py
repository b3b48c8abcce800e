"""Model-agnostic meta-learning: phi is where to start (Finn, Abbeel and Levine 2017).

    theta^n = phi - alpha grad l^n(phi; D_train)                    (one step; k are alike)
    L(phi)  = sum_n l^n(theta^n; D_test)
    grad L  = sum_n (I - alpha H^n) grad l^n(theta^n; D_test),   H^n = Hessian of l^n(.; D_train)

First order (FOMAML) takes I - alpha H for I: the gradient at theta^n is applied at phi.
"""

from __future__ import annotations

from typing import Unpack

from torch import nn

from metanotes.inner_loop_learner import InnerLoopLearner, Settings
from metanotes.update_rules import SGD, step_size


class MAML(InnerLoopLearner):
    """Learn the start phi from which k steps of gradient descent do best.

    On the map:
        phi: where all weights start
        adapts: all weights, k steps
        outer loss: of the query set, through the steps
        needs: second derivatives, or first_order=True

    Args:
        model: any module; its parameters are phi. See `InnerLoopLearner`.
        inner_lr: the inner step size alpha, above 0.
        steps: inner steps k in training; `adapt` and `evaluate` may take more.
        loss: of one task, inside and outside; `metanotes.mse` for regression.
        first_order: FOMAML, without second derivatives.
        adapts, batch: see `InnerLoopLearner`.
        keep_graph, checkpoint, record, compile, group: see `metanotes.engine.Options`.

    Raises:
        ValueError: see `InnerLoopLearner`.

    Source: Finn, Abbeel and Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep
    Networks", ICML 2017, algorithm 1.

    >>> import torch
    >>> from metanotes import MAML, mse
    >>> from metanotes.data import sinusoid
    >>> from metanotes.nets import mlp
    >>> model, tasks = mlp(1, 40, 40, 1), sinusoid(shots=10, queries=10, seed=0)(25)
    >>> learner = MAML(model, inner_lr=0.01, steps=2, loss=mse)
    >>> losses = learner(tasks)                 # [25]
    >>> losses.mean().backward()                # grad L(phi), second derivatives and all

    The same plainly, task by task. `learner` works on all tasks at once, in the same two steps.

    >>> plain = []
    >>> for (x, y), (x_test, y_test) in zip(zip(*tasks.support), zip(*tasks.query)):
    ...     theta = dict(model.named_parameters())
    ...     for _ in range(2):
    ...         loss = mse(torch.func.functional_call(model, theta, (x,)), y)
    ...         grads = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
    ...         theta = {n: t - 0.01 * g for (n, t), g in zip(theta.items(), grads)}
    ...     plain.append(mse(torch.func.functional_call(model, theta, (x_test,)), y_test))
    >>> L = torch.stack(plain).mean()
    >>> gradient = torch.autograd.grad(L, list(model.parameters()))
    >>> all(torch.allclose(p.grad, g, atol=1e-5) for p, g in zip(model.parameters(), gradient))
    True
    """

    def __init__(
        self, model: nn.Module, inner_lr: float, steps: int = 1, **settings: Unpack[Settings]
    ) -> None:
        super().__init__(model, SGD(step_size("inner_lr", inner_lr)), steps, **settings)
