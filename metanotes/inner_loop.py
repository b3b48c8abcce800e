"""The inner loop, shared by every method that descends, and its exact derivative.

    theta_0 = phi,    theta_{t+1} = theta_t + rule(grad l(theta_t)),    t = 0 .. k-1      (1)

`descend` computes theta_k of all tasks at once, without a graph, keeping the theta_t. Its backward
pass is the adjoint of (1): a cotangent v of theta_{t+1} is pulled back through the rule to a
cotangent d of the gradient g_t, and

    v <- v + H(theta_t) d,    H = the Hessian of l,    for t = k-1 .. 0                    (2)

With `Sgd(alpha)`, d = -alpha v, and (2) is MAML's product (I - alpha H_0) ... (I - alpha H_{k-1}) g
(Finn et al. 2017). First order leaves H d out. It costs one Hessian-vector product a step, holds k
copies of theta rather than k graphs, and is right for any module, because `vmap` stands outside
both derivatives: differentiating a vmapped gradient from outside gives wrong numbers where a module
uses `F.batch_norm` with weights (torch 2.13).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call, grad, vjp, vmap
from torch.nn.modules.conv import _ConvNd

from metanotes.learner import Learner, Loss, check_targets, cross_entropy
from metanotes.task import Batch
from metanotes.update_rules import Theta, UpdateRule

TaskLoss = Callable[[Theta, Tensor, Tensor], Tensor]  # theta of one task, x, y -> scalar


def over_tasks(function: Callable, in_dims: tuple, loop: bool) -> Callable:
    """The function of one task, applied to every task: by `vmap`, or one after the other."""
    if not loop:
        return vmap(function, in_dims=in_dims, randomness="different")

    def one(arg: Any, n: int) -> Any:
        return {name: t[n] for name, t in arg.items()} if isinstance(arg, dict) else arg[n]

    def run(*args: Any) -> Any:
        tasks = len(args[-1])
        results = [
            function(*(one(a, n) if dim == 0 else a for a, dim in zip(args, in_dims, strict=True)))
            for n in range(tasks)
        ]
        if isinstance(results[0], dict):
            return {name: torch.stack([r[name] for r in results]) for name in results[0]}
        return torch.stack(results)

    return run


def descend(
    loss: TaskLoss,
    phi: Theta,
    rule: UpdateRule,
    support: Batch,
    steps: int,
    first_order: bool = False,
    loop: bool = False,
) -> Theta:
    """theta_k of every task after `steps` steps of the rule from phi, differentiable in phi.

    Args:
        loss: the loss of one task, `loss(theta, x, y)`, a scalar.
        phi: the start, by name, without a task axis.
        rule: makes a step of a gradient; its own parameters are differentiated too.
        support: what the tasks learn from, x `[T, N, ...]`.
        steps: k, at least 0.
        first_order: hold the inner gradients constant.
        loop: work task by task, for losses that `vmap` cannot batch.

    Returns:
        theta_k by name, tensors `[T, ...]`.
    """
    rule_phi = {name: p for name, p in rule.named_parameters() if p.requires_grad}
    tensors = (*phi.values(), *rule_phi.values())
    if steps == 0 or not phi:
        return {name: p.expand(len(support.x), *p.shape) for name, p in phi.items()}
    problem = _Problem(
        loss, rule, support, steps, first_order, loop, list(phi), list(rule_phi),
        keep=torch.is_grad_enabled() and any(t.requires_grad for t in tensors),
    )  # fmt: skip
    return dict(zip(phi, _Descend.apply(problem, *tensors), strict=True))


class _Problem:
    """What one inner loop is made of, beside the tensors that it is differentiated by."""

    def __init__(self, loss, rule, support, steps, first_order, loop, names, rule_names, keep):
        self.loss, self.rule, self.support, self.steps = loss, rule, support, steps
        self.first_order, self.loop, self.keep = first_order, loop, keep
        self.names, self.rule_names = names, rule_names

    def split(self, tensors: tuple[Tensor, ...]) -> tuple[Theta, Theta]:
        """phi and the rule's parameters, by name."""
        n = len(self.names)
        phi = dict(zip(self.names, tensors[:n], strict=True))
        return phi, dict(zip(self.rule_names, tensors[n:], strict=True))

    def step(self, rule_phi: Theta, grads: Theta, state: Any) -> tuple[Theta, Any]:
        return functional_call(self.rule, rule_phi, (grads, state))

    def gradient(self, theta: Theta, dim: int | None) -> Theta:
        """g_t of every task. In the first step theta is phi itself (dim None), shared by all."""
        return over_tasks(grad(self.loss), (dim, 0, 0), self.loop)(theta, *self.support)

    def hessian_product(self, theta: Theta, d: Theta, dim: int | None) -> Theta:
        """H(theta_t) d of every task: the gradient of <grad l, d>."""

        def product(theta: Theta, d: Theta, x: Tensor, y: Tensor) -> Theta:
            _, pull = vjp(lambda theta: grad(self.loss)(theta, x, y), theta)
            return pull(d)[0]

        return over_tasks(product, (dim, 0, 0, 0), self.loop)(theta, d, *self.support)


class _Descend(torch.autograd.Function):
    """Equation (1) forwards, equation (2) backwards."""

    @staticmethod
    def forward(ctx: Any, problem: _Problem, *tensors: Tensor) -> tuple[Tensor, ...]:
        phi, rule_phi = problem.split(tensors)
        tasks = len(problem.support.x)
        theta = {name: p.expand(tasks, *p.shape) for name, p in phi.items()}
        state = problem.rule.init(theta)
        ctx.problem, ctx.trajectory = problem, []
        ctx.save_for_backward(*tensors)
        for t in range(problem.steps):
            random = _random_state(problem.support.x.device)
            grads = problem.gradient(theta if t else phi, 0 if t else None)
            if problem.keep:
                ctx.trajectory.append((theta if t else phi, grads, state, random))
            updates, state = problem.step(rule_phi, grads, state)
            theta = {name: theta[name] + updates[name] for name in theta}
        return tuple(theta.values())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        problem, names = ctx.problem, ctx.problem.names
        _, rule_phi = problem.split(ctx.saved_tensors)
        v = dict(zip(names, cotangents, strict=True))
        d_rule = {name: torch.zeros_like(p) for name, p in rule_phi.items()}
        d_state = None  # the cotangent of the state; nothing depends on the last one
        for t in reversed(range(problem.steps)):
            theta, grads, state, random = ctx.trajectory[t]
            if d_state is None:
                _, pull = vjp(lambda *a: problem.step(*a)[0], rule_phi, grads, state)
                pulled, d, d_state = pull(v)
            else:
                _, pull = vjp(problem.step, rule_phi, grads, state)
                pulled, d, d_state = pull((v, d_state))
            d_rule = {name: d_rule[name] + pulled[name] for name in d_rule}
            if not problem.first_order:
                with _replayed(random, problem.support.x.device):  # dropout: the same masks
                    h = problem.hessian_product(theta, d, 0 if t else None)
                v = {name: v[name] + h[name] for name in names}
        return None, *(v[name].sum(0) for name in names), *d_rule.values()


def _cuda(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _random_state(device: torch.device) -> tuple[Tensor, ...]:
    if device.type == "cuda":
        return torch.get_rng_state(), torch.cuda.get_rng_state(device)
    return (torch.get_rng_state(),)


@contextmanager
def _replayed(state: tuple[Tensor, ...], device: torch.device):
    """Draw the same random numbers again as from that state, then go on as before."""
    with torch.random.fork_rng(devices=_cuda(device)):
        torch.set_rng_state(state[0])
        if len(state) > 1:
            torch.cuda.set_rng_state(state[1], device)
        yield


class InnerLoopLearner(Learner):
    """A learner that descends: phi is the start, the rule's parameters, or both.

    Args:
        model: any module whose forward maps `[N, ...]` to `[N, ...]`. Parameters that do not
            require a gradient stay as they are.
        rule: makes a step of a gradient.
        steps: inner steps k, at least 0.
        loss: of one task, inside and outside.
        first_order: hold the inner gradients constant.
        keep_graph: build the whole graph of the inner loop, so that the result can be
            differentiated any number of times; slower, and its memory grows with the steps.

    Raises:
        ValueError: the model has running statistics, or buffers that its forward writes to: they
            would carry one task into the next. Or labels outside the model's outputs.
    """

    def __init__(
        self,
        model: nn.Module,
        rule: UpdateRule,
        steps: int,
        loss: Loss = cross_entropy,
        first_order: bool = False,
        keep_graph: bool = False,
    ) -> None:
        super().__init__(loss)
        if steps < 0:
            raise ValueError(f"steps={steps} must be 0 or more")
        refuse_running_statistics(model)
        if not any(p.requires_grad for p in model.parameters()):
            raise ValueError("the model has no parameter that requires a gradient: nothing to adapt")
        self.model, self.rule, self.steps = model, rule, steps
        self.first_order, self.keep_graph = first_order, keep_graph
        self._loop = False  # whether vmap cannot batch the model: found out at first use
        self._output_shape: torch.Size | None = None  # of one example, likewise
        self._convolves = any(isinstance(module, _ConvNd) for module in model.modules())

    def adapt(self, support: Batch, steps: int | None = None) -> Theta:
        """theta_k by name, tensors `[T, ...]`, after `steps` (default: the learner's) steps."""
        steps = self.steps if steps is None else steps
        if steps < 0:
            raise ValueError(f"steps={steps} must be 0 or more")
        if self._output_shape is None:
            self._try(support)
        check_targets(self.loss, self._output_shape, support.y)
        descent = unrolled if self.keep_graph else descend
        return descent(
            self.task_loss, self.phi(), self.rule, support, steps, self.first_order, self._loop
        )

    def predict(self, adapted: Theta, x: Tensor) -> Tensor:
        """f_theta(x) of every task: x `[T, M, ...]` to outputs `[T, M, ...]`."""
        # Weights that differ between tasks make vmap's convolutions grouped ones, and on a CPU
        # those are slower than one ordinary convolution a task.
        loop = self._loop or (self._convolves and x.device.type == "cpu")
        return over_tasks(
            lambda theta, x: functional_call(self.model, theta, (x,)), (0, 0), loop
        )(adapted, x)

    def phi(self) -> Theta:
        """The parameters of the model that are adapted, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def task_loss(self, theta: Theta, x: Tensor, y: Tensor) -> Tensor:
        """l(theta) of one task: x `[N, ...]`, y `[N]` or `[N, ...]`, to a scalar."""
        return self.loss(functional_call(self.model, theta, (x,)), y)

    def _try(self, support: Batch) -> None:
        """Run the model once on one task, to know its outputs and what it can do, before any work."""
        x, y = support.x[:1], support.y[:1]
        with torch.no_grad(), torch.random.fork_rng(devices=_cuda(x.device)):
            buffers = {name: b.clone() for name, b in self.model.named_buffers()}
            outputs = functional_call(self.model, buffers, (x[0],))
            written = [name for name, b in buffers.items() if b._version > 0]
            if written:
                raise ValueError(
                    f"the model's forward writes to its buffers {written}: they would carry one "
                    "task into the next; use a module that keeps nothing (or model.eval())"
                )
            check_targets(self.loss, outputs.shape[1:], y)
            phi = {name: p.detach() for name, p in self.phi().items()}
            try:
                over_tasks(grad(self.task_loss), (None, 0, 0), False)(phi, x, y)
                self._loop = False
            except (RuntimeError, NotImplementedError):  # no batching rule, or a branch on data
                over_tasks(grad(self.task_loss), (None, 0, 0), True)(phi, x, y)
                self._loop = True
        self._output_shape = outputs.shape[1:]


def refuse_running_statistics(model: nn.Module) -> None:
    """Running statistics mix the tasks, and cannot be adapted.

    Raises:
        ValueError: names the layers, and what to use instead.
    """
    layers = [
        name
        for name, module in model.named_modules()
        if module.training and getattr(module, "running_mean", None) is not None
    ]
    if layers:
        raise ValueError(
            f"the layers {layers} keep running statistics, which would carry one task into the "
            "next; build them with track_running_stats=False (the statistics of the batch, as in "
            "MAML), or use nn.GroupNorm or nn.LayerNorm"
        )


def unrolled(
    loss: TaskLoss,
    phi: Theta,
    rule: UpdateRule,
    support: Batch,
    steps: int,
    first_order: bool = False,
    loop: bool = True,
) -> Theta:
    """What `descend` computes, with the graph of every step kept: arguments as there."""
    tasks = len(support.x)
    theta = {name: p.expand(tasks, *p.shape) for name, p in phi.items()}
    state = rule.init(theta)
    for _ in range(steps):
        grads = []
        for n in range(tasks):
            one = {name: t[n] for name, t in theta.items()}
            with torch.enable_grad():
                value = loss(one, support.x[n], support.y[n])
            grads.append(
                torch.autograd.grad(
                    value, list(one.values()), create_graph=not first_order, materialize_grads=True
                )
            )
        stacked = {name: torch.stack(g) for name, g in zip(theta, zip(*grads, strict=True))}
        updates, state = rule(stacked, state)
        theta = {name: theta[name] + updates[name] for name in theta}
    return theta
