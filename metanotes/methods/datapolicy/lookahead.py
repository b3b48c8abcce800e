"""Data learned by looking one step ahead: what is good to train on is what helps on clean examples.

    theta'(phi) = theta - alpha grad_theta L_train(theta, phi)                                  (1)
    L(phi) = L_val(theta'(phi))                                                                 (2)

phi is a policy, by which the training data are altered or weighted. It moves down the gradient of
(2), through the step (1), and then the model takes its own step down grad_theta L_train(theta, phi)
with the new phi held constant. So the two learn by turns, and one run is all there is; a full inner
problem, as in `metanotes.hypergradient`, would need a training for every step of phi.

Source: the one-step approximation of Liu et al., "DARTS: Differentiable Architecture Search", ICLR
2019, section 2.3, for data: Ren et al. 2018, Shu et al. 2019, Li et al. 2020.
"""

from __future__ import annotations

from collections.abc import Iterator

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
from metanotes.theta import buffers_apart, call, over_tasks, trainable
from metanotes.theta.gradients import one_number_each, one_step_ahead
from metanotes.theta.parameters import Theta
from metanotes.theta.seen import Look
from metanotes.update_rules import step_size


class LookaheadLearner(Learner):
    """A model and a policy of its training data, which learn by turns: (1) and (2).

    A task is a minibatch to train on, its support set, and clean examples, its query set. A
    subclass says in `training_loss` what the policy does with the minibatch. With several tasks a
    batch, each has a step ahead of its own.

    Args:
        model: any module; its parameters are theta. What it notes in its buffers it notes in the
            turns of the model alone.
        inner_lr: alpha, the size of the step ahead, above 0; as a rule the model's own rate.
        policy: any module; its parameters are phi.
        loss: from outputs `[N, ...]` and targets `[N]` or `[N, ...]` to a scalar.

    `meta_train` needs an optimizer for each of the turns `"policy"` and `"model"`.

    Raises:
        TypeError: `model` or `policy` is no module.
        ValueError: the model has nothing to train, or `inner_lr` is not above 0; in use, an empty
            validation set, or a model that does not see the weights that stand for its own.

    Which share of each class helps most, learned:

    >>> import torch
    >>> class ClassWeights(LookaheadLearner):
    ...     def training_loss(self, theta, x, y, learns):
    ...         weights = self.policy.weight if learns else self.policy.weight.detach()
    ...         return weights[0].softmax(0)[y] @ self.losses_of_each(theta, x, y)
    >>> learner = ClassWeights(nn.Linear(5, 3), 0.1, nn.Linear(3, 1, bias=False))
    >>> batch = Batch(torch.randn(1, 8, 5), torch.arange(8)[None] % 3)
    >>> [(name, losses.shape) for name, losses in learner.turns(Task(batch, batch))]
    [('policy', torch.Size([1])), ('model', torch.Size([1]))]
    """

    def __init__(
        self, model: nn.Module, inner_lr: float, policy: nn.Module, *, loss: Loss = cross_entropy
    ) -> None:
        super().__init__(loss)
        self.model, self.inner_lr = check_model(model), step_size("inner_lr", inner_lr)
        if not isinstance(policy, nn.Module):
            raise TypeError(f"policy is a {type(policy).__name__}; it must be a module")
        self.policy = policy
        self.look = Look()

    def training_loss(self, theta: Theta, x: Inputs, y: Tensor, learns: bool) -> Tensor:
        """L_train(theta, phi) of one minibatch, a scalar.

        Args:
            theta: the model's parameters by name.
            x, y: the minibatch, `[N, ...]` and `[N]` or `[N, ...]`.
            learns: whether the policy learns from it; otherwise phi is held constant.
        """
        raise NotImplementedError

    def adapt(self, support: Batch, steps: int | None = None) -> None:
        """Nothing: the model is what was learned."""

    def predict(self, adapted: None, x: Inputs) -> Tensor:
        """The model's outputs: x `[T, M, ...]` to `[T, M, ...]`."""
        return over_tasks(lambda x: call(self.model, {}, x))(x)

    def forward(self, tasks: Task) -> Tensor:
        """(2), the loss on the query set after the step (1): `[T]`, differentiable in phi alone."""
        check_examples(tasks)
        support, query = tasks

        def ahead(theta: Theta, x: Inputs, y: Tensor) -> Tensor:
            return self.training_loss(theta, x, y, True)

        with buffers_apart(self.model), plain_attention_only():
            theta = one_step_ahead(ahead, self.model, self.inner_lr, *support)
            losses = one_number_each(over_tasks(self.plain_loss)(theta, *query))
        self.look(self.model, self.loss, *select(query, 0))
        return losses

    def turns(self, tasks: Task) -> Iterator[tuple[str, Tensor]]:
        """The policy's turn, (2), and then the model's, L_train."""
        yield "policy", self(tasks)
        yield "model", self.model_losses(tasks)

    def model_losses(self, tasks: Task) -> Tensor:
        """L_train, which the model descends: `[T]`, differentiable in theta alone."""
        check_examples(tasks)
        theta = trainable(self.model)

        def loss(x: Inputs, y: Tensor) -> Tensor:
            return self.training_loss(theta, x, y, False)

        return one_number_each(over_tasks(loss)(*tasks.support))

    def plain_loss(self, theta: Theta, x: Inputs, y: Tensor) -> Tensor:
        """The loss of the model with parameters theta on examples of one task, a scalar."""
        return self.loss(outputs_for(self.model, theta, self.loss, x, y), y)

    def losses_of_each(self, theta: Theta, x: Inputs, y: Tensor) -> Tensor:
        """The same of each example: `[N]`."""
        return loss_of_each(self.loss, outputs_for(self.model, theta, self.loss, x, y), y)

    def extra_repr(self) -> str:
        return f"inner_lr={self.inner_lr:g}, loss={name_of(self.loss)}"
