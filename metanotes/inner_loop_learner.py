"""A learner that descends: what MAML and its kin have in common.

    theta_0 = phi,    theta_{t+1} = theta_t + rule(grad l(theta_t)),    l^n = l(theta_k; D_test)

`inner_loop` has the steps and their derivative, the engine the ways to work them out fast. This
class joins them to a model. A method says what its losses are (`query_losses`), or what phi is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Self, Unpack

import torch
from torch import Tensor, nn

from metanotes._ground.checks import count
from metanotes.engine import Computing, plan_for
from metanotes.inner_loop import Descent, descend
from metanotes.learner import (
    Learner,
    Loss,
    about_dtypes,
    check_outputs,
    check_targets,
    cross_entropy,
    keep_frozen,
    refuse_other_dtype,
    refuse_running_statistics,
    refuse_whole_numbers,
)
from metanotes.task import (
    Batch,
    Inputs,
    Task,
    check_tasks,
    in_parts,
    map_tensors,
    minibatches,
    tensors_of,
)
from metanotes.theta import (
    call,
    leaves,
    losses_and_gradients,
    losses_pulled_back,
    over_tasks,
    trainable,
    with_task_axis,
)
from metanotes.theta.gradients import one_number_each
from metanotes.theta.parameters import Layers, Part, Theta, parts_of, refuse_strange_gradients
from metanotes.theta.seen import check_that_theta_is_seen
from metanotes.theta.task_axis import IN_FORCE, ONE_BY_ONE, present
from metanotes.update_rules import UpdateRule, check_that_tasks_stay_apart

__all__ = ["InnerLoopLearner"]


class HeadSettings(Computing, total=False):
    """`Settings`, where it is settled that the head adapts."""

    loss: Loss
    first_order: bool
    batch: int | None


class Settings(HeadSettings, total=False):
    """What a descending learner takes by name, see `InnerLoopLearner`."""

    adapts: Part | Sequence[Part] | None


# Where one of these is overridden, it is given x, and not what a body makes of it.
SEES_X = ("task_loss", "query_loss", "outputs")


class InnerLoopLearner(Learner):
    """A learner that descends: phi is the start, the rule's parameters, or both.

    Args:
        model: any module whose forward maps `[N, ...]` to `[N, ...]`, or keyword arguments where x
            is a dict. Parameters that do not require a gradient stay as they are.
        rule: makes a step of a gradient, for each task by itself.
        steps: inner steps k, at least 0.
        loss: of one task, inside and outside.
        first_order: hold the inner gradients constant.
        adapts: which part of the model adapts: a module of it, the name of a module or of a
            parameter, or several of these; of an `nn.Sequential` also "head", its last module, or
            "body", those before it; default: all of it. The rest is learned only. Of an
            `nn.Sequential` whose last modules adapt, those before them, the body, work once on
            every example, however many steps follow.
        batch: examples of a fresh minibatch for each inner step, in a random order drawn from
            torch's global generator; default: the whole support set in every step.
        keep_graph, checkpoint, record, compile, group: see `metanotes.engine.Options`.

    Raises:
        ValueError: the model has running statistics, or buffers that its forward writes to: they
            would carry one task into the next. Or the rule mixes tasks, there is nothing to adapt,
            what adapts is complex, an embedding has sparse gradients, `adapts` is no part of the
            model, more examples of a minibatch than a task has, targets that the outputs cannot be
            compared with.

    >>> from metanotes import Adam, mse
    >>> from metanotes.data import sinusoid
    >>> from metanotes.nets import mlp
    >>> learner = InnerLoopLearner(mlp(1, 20, 1), Adam(lr=0.01), steps=3, loss=mse)
    >>> theta = learner.adapt(sinusoid(shots=10, queries=10, seed=0)(25).support)
    >>> {name: tuple(t.shape) for name, t in theta.items()}["0.weight"]      # a copy a task
    (25, 20, 1)
    """

    takes_steps = True

    def __init__(
        self,
        model: nn.Module,
        rule: UpdateRule,
        steps: int = 1,
        *,
        loss: Loss = cross_entropy,
        first_order: bool = False,
        adapts: Part | Sequence[Part] | None = None,
        batch: int | None = None,
        **computing: Unpack[Computing],
    ) -> None:
        super().__init__(loss, **computing)
        if not isinstance(rule, UpdateRule):
            raise ValueError(
                f"rule={rule!r} must be an UpdateRule, such as metanotes.SGD(lr=0.1): the "
                "optimizers of torch.optim change parameters in place, which cannot be "
                "differentiated"
            )
        refuse_running_statistics(model)
        self.model, self.rule, self.steps = model, rule, count("steps", steps, least=0)
        self.first_order = first_order
        self.batch = None if batch is None else count("batch", batch)
        self.adapted_names = None if adapts is None else parts_of(model, adapts)
        phi = self.phi()
        if not phi:
            raise ValueError(
                f"{'the model' if adapts is None else f'adapts={adapts!r}'} has no parameter that "
                "requires a gradient: nothing to adapt"
            )
        refuse_strange_gradients(model, phi)

    # ---------------------------------------------------------------------------- F_phi and f_theta

    def phi(self) -> Theta:
        """The parameters of the model that are adapted, by name."""
        own = trainable(self.model)
        if self.adapted_names is None:
            return own
        return {name: p for name, p in own.items() if name in self.adapted_names}

    def adapt(self, support: Batch, steps: int | None = None) -> Theta:
        """theta_k by name, tensors `[T, ...]`, after `steps` (default: the learner's) steps."""
        steps = count("steps", self.steps if steps is None else steps, least=0)
        if IN_FORCE.get() is not None:
            return self.descend(self.minibatches(support, steps), steps)
        tasks = Task(Batch(*support), Batch(*support))
        check_tasks(tasks)
        plan = plan_for(self, tasks)
        self.check(tasks, plan.output)
        with plan.at_work():
            return self.descend(self.minibatches(tasks.support, steps), steps)

    def predict(self, adapted: Theta, x: Inputs) -> Tensor:
        """f_theta(x) of every task: x `[T, M, ...]` to outputs `[T, M, ...]`."""
        body, head = self.body_and_head()
        if body is None:
            return over_tasks(self.outputs, predicts=True)(adapted, x)
        return over_tasks(partial(self.outputs, model=head))(adapted, self.features(x))

    def forward(self, tasks: Task) -> Tensor:
        """l^n, the loss on the query set after learning from the support set: `[T]`."""
        if self.batch is not None:
            check_tasks(tasks)
            # Drawn once: however the tasks are grouped, and when work is done a second time.
            tasks = Task(minibatches(tasks.support, self.batch, self.steps), tasks.query)
        return super().forward(tasks)

    def query_losses(self, tasks: Task) -> Tensor:
        """`forward`, plainly written: what each method fills in."""
        theta = self.descend(self.in_turn(tasks.support), self.steps)
        return self.losses_at(theta, tasks.query)

    # --------------------------------------------------------------------------------- the steps

    def descend(self, batches: Sequence[Batch], steps: int) -> Theta:
        """theta_k after steps on minibatches in turn, or on one batch: `adapt` without checks."""
        loss = self.task_loss
        body, head = self.body_and_head()
        if body is not None:
            batches = [Batch(self.features(x), y) for x, y in batches]
            loss = partial(self.task_loss, model=head)
        descent = Descent(loss, self.rule, batches, steps, self.first_order)
        phi = self.phi()
        if body is not None or not self.options.checkpoint:
            return descend(phi, descent)
        own = {id(p) for p in phi.values()}
        learned: list[Tensor] = [
            p for p in self.parameters() if p.requires_grad and id(p) not in own
        ]
        learned += [t for t in tensors_of(batches) if t.requires_grad]
        return descend(phi, descent, checkpoint=True, learned=learned)

    def losses_at(self, theta: Theta, batch: Batch) -> Tensor:
        """l^n(theta^n) on a batch of every task: `[T]`."""
        x, y = batch
        own = type(self)
        if (
            own.predict is not InnerLoopLearner.predict
            or own.task_losses is not Learner.task_losses
        ):
            return self.task_losses(self.predict(theta, x), y)
        body, head = self.body_and_head()
        if body is not None:
            loss = over_tasks(partial(self.query_loss, model=head))
            return one_number_each(loss(theta, self.features(x), y))
        # One by one, the gradient at theta can be taken at once, where theta is all that learns.
        if present().apart and torch.is_grad_enabled() and self.theta_is_all():
            return losses_pulled_back(self.query_loss, theta, x, y)
        return one_number_each(over_tasks(self.query_loss, predicts=True)(theta, x, y))

    def theta_is_all(self) -> bool:
        """Whether a loss at theta depends on nothing else that is learned."""
        known = {id(p) for p in (*self.phi().values(), *self.rule.parameters())}
        return all(id(p) in known for p in self.parameters() if p.requires_grad)

    def task_loss(
        self, theta: Theta, x: Inputs, y: Tensor, model: nn.Module | None = None
    ) -> Tensor:
        """l(theta), which the steps descend, of one task: x `[N, ...]`, y `[N]` or `[N, ...]`.

        The place for what shall hold inside alone, such as a penalty on theta.
        """
        return self.loss(self.outputs(theta, x, model), y)

    def query_loss(
        self, theta: Theta, x: Inputs, y: Tensor, model: nn.Module | None = None
    ) -> Tensor:
        """The loss outside: that of the outputs, without what `task_loss` may add to it."""
        return self.loss(self.outputs(theta, x, model), y)

    def outputs(self, theta: Theta, x: Inputs, model: nn.Module | None = None) -> Tensor:
        """f_theta(x) of one task: x `[N, ...]` to outputs `[N, ...]`."""
        return call(model or self.model, theta, x)

    # ------------------------------------------------------------------------------- body and head

    def body_and_head(self) -> tuple[nn.Module | None, nn.Module]:
        """A body that does not adapt and works once on every example, if there is one; the rest.

        theta has the names of the whole model's parameters; so has the head that is returned.
        """
        model, own = self.model, type(self)
        if self.adapted_names is None or not isinstance(model, nn.Sequential):
            return None, model
        if any(getattr(own, name) is not getattr(InnerLoopLearner, name) for name in SEES_X):
            return None, model
        if type(model).forward is not nn.Sequential.forward:
            return None, model
        if model._forward_hooks or model._forward_pre_hooks:  # they want to see all of it
            return None, model
        adapting = {id(p) for name, p in model.named_parameters() if name in self.adapted_names}
        # A module may stand there twice.
        layers = [(name, layer) for name, layer in model._modules.items() if layer is not None]
        moves = [any(id(p) in adapting for p in part.parameters()) for _, part in layers]
        split = moves.index(True)
        return (Layers(layers[:split]) if split else None), Layers(layers[split:])

    def features(self, x: Inputs) -> Tensor:
        """What the body makes of the examples of every task: `[T, N, ...]` to `[T, N, ...]`."""
        body, _ = self.body_and_head()
        if body is None:
            raise ValueError("all of the model adapts: it has no body that works once; see adapts=")
        return over_tasks(lambda x: call(body, {}, x))(x)

    # ------------------------------------------------------------------------------- minibatches

    def minibatches(self, support: Batch, steps: int) -> Sequence[Batch]:
        """What each of so many steps learns from, drawn anew; or the whole support set."""
        if self.batch is None or steps == 0:
            return [support]
        return in_parts(minibatches(support, self.batch, steps), self.batch)

    def in_turn(self, support: Batch) -> Sequence[Batch]:
        """The minibatches that lie one after the other in a support set that `forward` drew."""
        whole = self.batch is None or support.y.shape[1] < self.batch  # one that nobody drew
        return [support] if whole else in_parts(support, self.batch or 0)

    # ---------------------------------------------------------------------- what the engine asks

    def first_look(self, tasks: Task) -> torch.Size:
        """Run the model on the support set of a task: the shape of its output for one example."""
        x, y = map_tensors(lambda t: t[0], tasks.support)
        refuse_other_dtype(self.model, x)
        buffers = {name: (b, b.detach().clone()) for name, b in self.model.named_buffers()}
        phi = {name: (p, p._version, p.data_ptr()) for name, p in self.phi().items()}
        try:
            outputs = call(self.model, {}, x)
        except (RuntimeError, ValueError) as error:
            if about_dtypes(error):
                refuse_whole_numbers(x, error)
            raise
        written = [
            name
            for name, b in self.model.named_buffers()
            if name not in buffers or b is not buffers[name][0] or _written(*buffers[name])
        ]
        if written:
            raise ValueError(
                f"the model's forward writes to its buffers {written}: they would carry one "
                "task into the next; use a module that keeps nothing (or model.eval())"
            )
        written = [n for n, (p, *was) in phi.items() if [p._version, p.data_ptr()] != was]
        if written:
            raise ValueError(
                f"the model's forward writes to its parameters {written}, as max_norm= of an "
                "embedding does: the inner steps cannot see that; constrain them by "
                "torch.nn.utils.parametrize, or outside of the forward"
            )
        return check_outputs(outputs, y)

    @torch.enable_grad()
    def probe(self, tasks: Task) -> list[Tensor]:
        """Losses and gradients at two thetas, and a second derivative, without the rule."""
        generator = torch.Generator().manual_seed(0)

        def after_a_step(t: Tensor, gradient: Tensor) -> Tensor:  # also in how it lies in memory
            noise = torch.randn(t.shape, generator=generator).to(t)
            return t + torch.empty_like(gradient).copy_(0.01 * noise * (t.abs().mean() + 0.01))

        phi = {name: p.detach() for name, p in self.phi().items()}
        body, head = self.body_and_head()
        support, loss = self.in_turn(tasks.support)[0], self.task_loss
        if body is not None:
            support, loss = Batch(self.features(support.x), support.y), partial(loss, model=head)
        start = with_task_axis(phi, 2)
        losses, grads = losses_and_gradients(loss, start, *support)
        numbers = [losses, *grads.values()]
        theta = leaves({n: after_a_step(t, grads[n]) for n, t in start.items()})
        if present() == ONE_BY_ONE:
            x, y = map_tensors(lambda t: t[0], self.in_turn(tasks.support)[0])
            at = {name: t.detach()[0] for name, t in theta.items()}
            check_that_theta_is_seen(self.task_loss, self.phi(), at, x, y)
            check_that_tasks_stay_apart(self.rule, start, grads)
        by = [*theta.values(), *self.probed(tasks)]
        losses, grads = losses_and_gradients(
            loss, theta, *support, create_graph=not self.first_order
        )
        numbers += [losses, *grads.values()]
        if not self.first_order:
            along = torch.stack(
                [(g * torch.sin(g.detach() * 1e3 + 1)).sum() for g in grads.values()]
            ).sum()
            if along.requires_grad:
                numbers += torch.autograd.grad(along, by, materialize_grads=True, retain_graph=True)
            else:  # a loss that is linear in theta
                numbers += [torch.zeros_like(t) for t in by]
        losses = self.losses_at(theta, tasks.query)
        weights = torch.arange(1, 3).to(losses)
        numbers += torch.autograd.grad(weights @ losses, by, materialize_grads=True)
        return [*numbers, losses]

    def check(self, tasks: Task, output: torch.Size) -> None:
        """Refuse targets that outputs of this shape cannot be compared with, inside and outside."""
        for batch in tasks:
            check_targets(self.loss, output, batch.y)

    # ------------------------------------------------------------------------------ as a module

    def train(self, mode: bool = True) -> Self:
        """As of any module; but layers with running statistics, which came frozen, stay frozen."""
        super().train(mode)
        keep_frozen(self.model)
        return self

    def extra_repr(self) -> str:
        loss = getattr(self.loss, "__name__", type(self.loss).__name__)
        text = f"steps={self.steps}, first_order={self.first_order}, loss={loss}"
        if self.adapted_names is not None:
            text += f", adapts={sorted(self.adapted_names)}"
        return text if self.batch is None else f"{text}, batch={self.batch}"


def _written(buffer: Tensor, before: Tensor) -> bool:
    """Whether a buffer has other values; not by its version, which F.batch_norm leaves as it is."""
    return not torch.equal(buffer.nan_to_num(), before.nan_to_num())
