"""Meta-learning as one would write it first: a loop over tasks, a loop over steps, autograd.

    theta_0 = phi,    theta_{t+1} = theta_t + u(grad l(theta_t; D_train)),    t = 0 .. k-1
    l^n = l(theta_k; D_test)

The judge of the fuzz tests. It shares no line with the package: weights are put into the modules by
hand, each (module, name) once, rather than by `functional_call`, and the update rules are written
out again from their equations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from metanotes import Task

Theta = dict[str, Tensor]


@contextmanager
def weights(model: nn.Module, theta: Theta) -> Iterator[None]:
    """The model with `theta`, by name, in place of its parameters."""
    name_of = {id(p): name for name, p in model.named_parameters()}
    modules = list(model.modules())
    slots = [(m, key, p) for m in modules for key, p in m._parameters.items() if p is not None]
    try:
        for module, key, p in slots:
            module._parameters[key] = theta[name_of[id(p)]]
        _refresh(modules)
        yield
    finally:
        for module, key, p in slots:
            module._parameters[key] = p
        _refresh(modules)


def _refresh(modules: list[nn.Module]) -> None:
    """Recurrent layers of torch keep a second list of their weights."""
    for module in modules:
        if isinstance(module, nn.RNNBase):
            module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]


def outputs(model: nn.Module, theta: Theta, x: Any) -> Tensor:
    """f_theta(x) of one task."""
    with weights(model, theta):
        return model(**x) if isinstance(x, dict) else model(x)


@dataclass
class Rule:
    """An update rule by name, `SGD`, `Momentum`, `RMSprop`, `Adam` or `LearnedRates`."""

    kind: str = "SGD"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    decay: float = 0.99
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    rates: Theta | None = None

    def __call__(self, name: str, g: Tensor, memory: dict[str, Any]) -> Tensor:
        """u_t of one parameter; what it remembers of earlier steps is in `memory`."""
        match self.kind:
            case "SGD":
                return -self.lr * g
            case "LearnedRates":
                assert self.rates is not None
                return -self.rates[name] * g
            case "Momentum":
                m = memory["m"] = self.momentum * memory.get("m", 0.0) + g
                return -self.lr * (g + self.momentum * m if self.nesterov else m)
            case "RMSprop":
                v = memory["v"] = self.decay * memory.get("v", 0.0) + (1 - self.decay) * g**2
                return -self.lr * g / ((v + 1e-16 * self.eps**2).sqrt() + self.eps)
            case "Adam":
                b1, b2 = self.betas
                t = memory["t"] = memory.get("t", 0) + 1
                m = memory["m"] = b1 * memory.get("m", 0.0) + (1 - b1) * g
                v = memory["v"] = b2 * memory.get("v", 0.0) + (1 - b2) * g**2
                root = (v / (1 - b2**t) + 1e-16 * self.eps**2).sqrt()
                return -self.lr * (m / (1 - b1**t)) / (root + self.eps)
        raise ValueError(f"kind={self.kind!r} is no rule")


class Plain:
    """What a learner computes, for the methods that descend.

    Args:
        model: any module; no one else holds it.
        rule: makes a step of a gradient.
        steps: inner steps k.
        loss: of one task, inside and outside.
        method: "query" (MAML and its kin), "joint" (pre-training), "reptile".
        first_order: hold the inner gradients constant.
        adapts: names of the parameters that move in the inner loop; default: all that require a
            gradient.
        zero_start: whether those start at zero, as a hyper-representation's head.
        batch: how many of the examples a step of the inner loop sees, the first ones; which those
            are must make no difference.
    """

    def __init__(
        self,
        model: nn.Module,
        rule: Rule,
        steps: int,
        loss: Callable[[Tensor, Tensor], Tensor],
        method: str = "query",
        first_order: bool = False,
        adapts: list[str] | None = None,
        zero_start: bool = False,
        batch: int | None = None,
    ) -> None:
        self.model, self.rule, self.steps, self.loss = model, rule, steps, loss
        self.method, self.first_order = method, first_order
        self.adapts, self.zero_start, self.batch = adapts, zero_start, batch

    def train(self, mode: bool = True) -> None:
        """Training or evaluation mode, of the model and the loss; running statistics stay fixed."""
        for part in (self.model, self.loss):
            if isinstance(part, nn.Module):
                part.train(mode)
        for module in self.model.modules():
            if getattr(module, "running_mean", None) is not None:
                module.eval()

    def phi(self) -> Theta:
        """All that is learned, by name: of the model, the rule, and the loss."""
        named = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        if self.zero_start:
            named = {n: p for n, p in named.items() if n not in (self.adapts or [])}
        if self.rule.rates is not None:
            named |= {f"rates {n}": r for n, r in self.rule.rates.items()}
        if isinstance(self.loss, nn.Module):
            named |= {f"loss {n}": p for n, p in self.loss.named_parameters() if p.requires_grad}
        return named

    def start(self) -> tuple[Theta, list[str]]:
        """theta_0, of all parameters, and the names of those that adapt."""
        # A view, so that a hook on a parameter sees the meta-gradient and no inner one.
        parameters = dict(self.model.named_parameters())
        theta = {n: p.view_as(p) if p.requires_grad else p for n, p in parameters.items()}
        learned = [n for n, p in parameters.items() if p.requires_grad]
        adapts = learned if self.adapts is None else list(self.adapts)
        if self.zero_start:
            theta |= {n: torch.zeros_like(theta[n]).requires_grad_() for n in adapts}
        return theta, [n for n in adapts if theta[n].requires_grad]

    def adapt_one(self, x: Any, y: Tensor, steps: int) -> tuple[Theta, list[str]]:
        """theta_k of one task, and the names of the parameters that moved."""
        theta, adapts = self.start()
        memory: dict[str, dict[str, Any]] = {n: {} for n in adapts}
        for _ in range(steps):
            at = theta
            if not torch.is_grad_enabled():
                at = {n: t.detach().requires_grad_(n in adapts) for n, t in theta.items()}
            with torch.enable_grad():
                value = self.loss(outputs(self.model, at, x), y)
                second = not self.first_order
                gradients: tuple[Tensor | None, ...] = (None,) * len(adapts)
                if value.requires_grad:
                    gradients = torch.autograd.grad(
                        value, [at[n] for n in adapts], create_graph=second, allow_unused=True
                    )
            for name, g in zip(adapts, gradients, strict=True):
                g = torch.zeros_like(theta[name]) if g is None else g
                g = g if second else g.detach()
                theta[name] = theta[name] + self.rule(name, g, memory[name])
        return theta, adapts

    def task_loss(self, x: Any, y: Tensor, xq: Any, yq: Tensor) -> Tensor:
        """l^n of one task."""
        if self.method == "joint":
            return self.loss(outputs(self.model, self.start()[0], _join(x, xq)), _join(y, yq))
        if self.method == "reptile":
            with torch.no_grad():
                examples = _first(_join(x, xq), self.batch), _first(_join(y, yq), self.batch)
                theta, adapts = self.adapt_one(*examples, int(self.steps))
            phi = dict(self.model.named_parameters())
            away = [(phi[n] - theta[n].detach()).square().sum() for n in adapts]
            return 0.5 * torch.stack(away).sum()
        theta, _ = self.adapt_one(_first(x, self.batch), _first(y, self.batch), int(self.steps))
        return self.loss(outputs(self.model, theta, xq), yq)

    def losses(self, tasks: Task) -> Tensor:
        """l^n of every task, `[T]`."""
        with sdpa_kernel(SDPBackend.MATH):  # torch's other kernels have no second derivative
            return torch.stack([self.task_loss(*t) for t in each_task(tasks)])

    def gradients(self, total: Tensor, also: Theta | None = None, keep: bool = False) -> Theta:
        """The gradient of a number in phi, and in other tensors, by name."""
        wanted = self.phi() | (also or {})
        if not total.requires_grad or not wanted:
            return {n: torch.zeros_like(t) for n, t in wanted.items()}
        found = torch.autograd.grad(
            total, list(wanted.values()), allow_unused=True, retain_graph=keep
        )
        return {
            n: torch.zeros_like(t) if g is None else g
            for (n, t), g in zip(wanted.items(), found, strict=True)
        }

    def adapt(self, tasks: Task, steps: int | None = None) -> list[tuple[Theta, list[str]]]:
        """theta_k of every task, without a graph."""
        steps = int(self.steps if steps is None else steps)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            return [self.adapt_one(x, y, steps) for x, y, _, _ in each_task(tasks)]

    def predict(self, adapted: list[tuple[Theta, list[str]]], tasks: Task) -> Tensor:
        """Outputs for the queries of every task, `[T, M, ...]`."""
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            queries = [xq for _, _, xq, _ in each_task(tasks)]
            pairs = zip(adapted, queries, strict=True)
            return torch.stack([outputs(self.model, theta, xq) for (theta, _), xq in pairs])

    def predict_alone(self, adapted: list[tuple[Theta, list[str]]], tasks: Task) -> Tensor:
        """The same, each query in a batch with the support set only."""
        rows = []
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            for (theta, _), (x, _, xq, yq) in zip(adapted, each_task(tasks), strict=True):
                beside = (_join(x, _pick(xq, slice(m, m + 1))) for m in range(len(yq)))
                rows.append(torch.stack([outputs(self.model, theta, b)[-1] for b in beside]))
        return torch.stack(rows)


class PlainPrototypes(Plain):
    """Class means of embeddings, and squared distances to them, task by task.

    Args:
        model: makes embeddings `[N, E]`.
        ways: the number of classes.
        loss: of one task.
    """

    def __init__(
        self, model: nn.Module, ways: int, loss: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        super().__init__(model, Rule(), 0, loss)
        self.ways = ways

    def logits(self, x: Any, y: Tensor, xq: Any) -> Tensor:
        z, zq = self.model(x), self.model(xq)
        means = torch.stack([z[y == c].mean(0) for c in range(self.ways)])
        return -torch.stack([(q - means).square().sum(-1) for q in zq])

    def task_loss(self, x: Any, y: Tensor, xq: Any, yq: Tensor) -> Tensor:
        return self.loss(self.logits(x, y, xq), yq)

    def adapt(self, tasks: Task, steps: int | None = None) -> list[tuple[Theta, list[str]]]:
        return []

    def predict(self, adapted: list[tuple[Theta, list[str]]], tasks: Task) -> Tensor:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            return torch.stack([self.logits(x, y, xq) for x, y, xq, _ in each_task(tasks)])

    def predict_alone(self, adapted: list[tuple[Theta, list[str]]], tasks: Task) -> Tensor:
        return self.predict(adapted, tasks)


def each_task(tasks: Task) -> Iterator[tuple[Any, Tensor, Any, Tensor]]:
    """Support x and y and query x and y, of one task after the other."""
    for n in range(len(tasks.support.y)):
        yield (
            _pick(tasks.support.x, n),
            tasks.support.y[n],
            _pick(tasks.query.x, n),
            tasks.query.y[n],
        )


def _pick(x: Any, index: Any) -> Any:
    if isinstance(x, dict):
        return {k: t[index] for k, t in x.items()}
    x = x[index]
    if x.ndim == 4 and len(x) == 1:  # with channels last, torch's own gradient may be wrong
        return x.clone(memory_format=torch.contiguous_format)
    return x


def _first(x: Any, count: int | None) -> Any:
    return x if count is None else _pick(x, slice(count))


def _join(a: Any, b: Any) -> Any:
    if isinstance(a, dict):
        return {k: torch.cat([a[k], b[k]]) for k in a}
    return torch.cat([a, b])
