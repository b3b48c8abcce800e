"""ANIL, almost no inner loop: phi is a body and where its head starts (Raghu et al. 2020).

    z = body(x),    theta_0 = head,    theta_{t+1} = theta_t - alpha grad l(theta_t; z_train, y)
    L(phi) = sum_n l^n(theta_k^n; z_test, y),    phi = (body, head)

MAML's inner loop moves all of phi; here only the head moves, so that the body works once on every
image, however many steps follow. Its gradient comes through the features of both sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call

from metanotes.engine.task_layers import TaskLayers
from metanotes.inner_loop import Descent, over_tasks, trainable, unrolled
from metanotes.inner_loop_learner import InnerLoopLearner
from metanotes.learner import Loss, cross_entropy
from metanotes.task import Batch
from metanotes.update_rules import SGD, Theta, positive


class ANIL(InnerLoopLearner):
    """Learn a representation on which k steps of gradient descent on the head alone do best.

    Args:
        model: an `nn.Sequential` of at least two modules: the last is the head, which adapts, and
            those before it are the body, which does not. All their parameters are phi. Any body
            and head make one: `nn.Sequential(body, head)`.
        inner_lr: the inner step size alpha, above 0.
        steps: inner steps k in training; `adapt` and `evaluate` may take more.
        first_order: hold the inner gradients constant.
        loss: of one task, inside and outside; `metanotes.mse` for regression.
        keep_graph, compile: see `InnerLoopLearner`.

    Raises:
        ValueError: the model is no such `nn.Sequential`, its head has nothing to adapt; or see
            `InnerLoopLearner`.

    Source: Raghu, Raghu, Bengio and Vinyals, "Rapid Learning or Feature Reuse? Towards
    Understanding the Effectiveness of MAML", ICLR 2020.

    >>> from metanotes import ANIL
    >>> from metanotes.data import episodes, glyphs
    >>> from metanotes.nets import conv4
    >>> learner = ANIL(conv4(ways=5), inner_lr=0.4, steps=5)
    >>> tasks = episodes(glyphs("background"), ways=5, shots=1, queries=5)(4)
    >>> {name: tuple(t.shape) for name, t in learner.adapt(tasks.support).items()}
    {'weight': (4, 5, 256), 'bias': (4, 5)}
    """

    def __init__(
        self,
        model: nn.Sequential,
        inner_lr: float,
        steps: int = 1,
        first_order: bool = False,
        loss: Loss = cross_entropy,
        keep_graph: bool = False,
        compile: bool = False,
    ) -> None:
        if not isinstance(model, nn.Sequential) or len(model) < 2:
            raise ValueError(
                f"model={type(model).__name__} must be an nn.Sequential whose last module is the "
                "head: nn.Sequential(body, head)"
            )
        if not trainable(model[-1]):
            raise ValueError(f"the last module, {model[-1]}, has no parameter to adapt")
        rule = SGD(positive("inner_lr", inner_lr))
        super().__init__(model, rule, steps, loss, first_order, keep_graph, compile=compile)

    @property
    def head(self) -> nn.Module:
        """The last module: what adapts."""
        return self.model[-1]  # type: ignore[index]

    def phi(self) -> Theta:
        """The parameters of the head, by name."""
        return trainable(self.head)

    def features(self, x: Tensor) -> Tensor:
        """What the body makes of the images of every task: `[T, N, ...]` to `[T, N, F]`."""
        layers = self._task_layers and torch.is_grad_enabled()
        return over_tasks(lambda _, x: self._body(x, layers), not self.batchable)({}, x)

    def _body(self, x: Tensor, layers: bool) -> Tensor:
        """Of one task. Nobody can vmap `layers` once more, as `evaluate` does without gradients."""
        with TaskLayers(shared=True) if layers else nullcontext():
            return self.model[:-1](x)  # type: ignore[index]

    def one_by_one(self, x: Tensor) -> bool:
        """Whether to predict task by task: the weights of the body are the same in all."""
        return not self.batchable

    def descend(self, batches: Sequence[Batch], steps: int) -> Theta:
        """The head after so many steps on the features; one graph, since these depend on phi."""
        inside = [Batch(self.features(x), y) for x, y in batches]
        loop = not self.batchable
        descent = Descent(self.head_loss, self.rule, inside, steps, self.first_order, loop)
        return unrolled(self.phi(), descent)

    def head_loss(self, theta: Theta, z: Tensor, y: Tensor) -> Tensor:
        """Of one task, on its features z `[N, F]`."""
        return self.loss(functional_call(self.head, theta, (z,)), y)

    def task_loss(self, theta: Theta, x: Tensor, y: Tensor) -> Tensor:
        """Of one task, on its images."""
        return self.head_loss(theta, self._body(x, self._task_layers), y)

    def predict(self, adapted: Theta, x: Tensor) -> Tensor:
        """f_theta(x) of every task: x `[T, M, ...]` to outputs `[T, M, ...]`."""

        def outputs(theta: Theta, z: Tensor) -> Tensor:
            return functional_call(self.head, theta, (z,))

        return over_tasks(outputs, not self.batchable)(adapted, self.features(x))
