"""A case: what is drawn, and the two sides made of it, the package's learner and the plain loop."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import metanotes
from metanotes import Batch, Learner, Task
from tests.fuzz.losses import describe_loss
from tests.fuzz.plain import Plain, PlainPrototypes, Rule


class Change(NamedTuple):
    """What is changed after some calls.

    Args:
        name: says what.
        apply: does it, to a learner and to the plain loop alike; None for a change of the tasks.
        tasks: the tasks of the calls that follow, if they are others.
    """

    name: str
    apply: Callable[[Any], None] | None = None
    tasks: Task | None = None


@dataclass
class Case:
    """One case; two learners of it are equal and share nothing."""

    seed: int
    method: str = "MAML"
    rule: Rule = field(default_factory=Rule)
    steps: int = 1
    first_order: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    adapts: list[str] | None = None
    adapts_as: str = "names"
    batch: int | None = None
    dtype: torch.dtype = torch.float64
    training: bool = True
    ways: int = 0
    network: nn.Module = field(default_factory=nn.Identity)
    loss: Any = None
    tasks: Task = None
    differentiated: tuple[str, ...] = ()
    refusable: str = ""
    notes: list[str] = field(default_factory=list)
    evaluation_steps: int | None = None
    change: Change = field(default_factory=lambda: Change("nothing"))

    def __str__(self) -> str:
        x, xq = self.tasks.support.x, self.tasks.query.x
        first, firstq = (next(iter(t.values())) if isinstance(t, dict) else t for t in (x, xq))
        network = re.sub(r"\s+", " ", re.sub(r"\(\w+\): ", "", repr(self.network)))
        rule = self.rule.kind if self.rule.rates is None else "LearnedRates"
        numbers = "lr", "momentum", "nesterov", "decay", "betas", "eps"
        used = {"SGD": 1, "LearnedRates": 1, "Momentum": 3}.get(rule, 6)
        rule += "(" + ", ".join(f"{n}={getattr(self.rule, n)}" for n in numbers[:used]) + ")"
        parts = [
            f"seed {self.seed}: {self.method}, {rule}, steps={self.steps}",
            *(["first_order"] if self.first_order else []),
            *(f"{k}={v}" for k, v in self.options.items()),
            *([f"adapts={self.adapts} as {self.adapts_as}"] if self.adapts is not None else []),
            *([f"batch={self.batch}"] if self.batch is not None else []),
            f"loss={describe_loss(self.loss)}",
            f"x {list(first.shape)} and {firstq.shape[1]} queries",
            f"y {list(self.tasks.support.y.shape)}",
            str(self.dtype).removeprefix("torch."),
            "train" if self.training else "eval",
            *self.notes,
            f"then {self.change.name}",
            network,
        ]
        return ", ".join(parts)

    # ------------------------------------------------------------------------ the two sides

    def own_tasks(self, tasks: Task | None = None, dtype: torch.dtype | None = None) -> Task:
        """A copy of the tasks, with the memory order of the first; leaves where asked for."""
        tasks = self.tasks if tasks is None else tasks
        parts = []
        for name, batch in zip(Task._fields, tasks, strict=True):
            tensors = []
            for key, t in zip(Batch._fields, batch, strict=True):
                t = {k: self._own(v, dtype) for k, v in t.items()} if isinstance(t, dict) else t
                t = self._own(t, dtype) if isinstance(t, Tensor) else t
                if f"{name}.{key}" in self.differentiated and isinstance(t, Tensor):
                    t = t.detach().clone().requires_grad_()
                tensors.append(t)
            parts.append(Batch(*tensors))
        return Task(*parts)

    def _own(self, t: Tensor, dtype: torch.dtype | None) -> Tensor:
        if not t.is_floating_point() or dtype is None or t.dtype == dtype:
            return t
        return t.to(dtype)

    def learner(self) -> Learner:
        """The package's."""
        model, loss = self._parts(self.dtype)
        if "channels last" in self.notes:
            model.to(memory_format=torch.channels_last)
        learner = self._learner(model, loss)
        if self.rule.rates is not None:
            with torch.no_grad():
                for name, rate in learner.rule.rates.items():
                    rate.copy_(self.rule.rates[name])
        learner.train(self.training)
        self._set_part(learner.model)
        return learner

    def _set_part(self, model: Any) -> None:
        if "first part in evaluation mode" in self.notes:
            next(model.children()).eval()

    def _learner(self, model: nn.Module, loss: Any) -> Learner:
        rule, lr = self.rule, self.rule.lr
        how = {**self.options, "loss": loss}
        if self.batch is not None:
            how["batch"] = self.batch
        if self.adapts is not None and self.method not in ("ANIL", "HyperRepresentation"):
            how["adapts"] = {
                "names": self.adapts,
                "head": "head",
                "body": "body",
                "module": model[-1] if isinstance(model, nn.Sequential) else None,
            }[self.adapts_as]
        match self.method:
            case "MAML" | "ANIL" | "MetaSGD":
                kind = getattr(metanotes, self.method)
                how["first_order"] = self.first_order
                return kind(model, lr, self.steps, **accepted(kind, how))
            case "Pretrained" | "HyperRepresentation":
                kind = getattr(metanotes, self.method)
                return kind(model, lr, self.steps, **accepted(kind, how))
            case "Reptile":
                kind = metanotes.Reptile
                return kind(model, package_rule(rule), self.steps, **accepted(kind, how))
            case "InnerLoopLearner":
                kind = metanotes.InnerLoopLearner
                how["first_order"] = self.first_order
                return kind(model, package_rule(rule), self.steps, **accepted(kind, how))
            case "Prototypes":
                return Prototypes(model, self.ways, loss)
        raise ValueError(self.method)

    def plain(self, dtype: torch.dtype = torch.float64) -> Plain:
        """The judge's, whose weights and tasks are rounded as the learner's are."""
        model, loss = self._parts(dtype)
        if self.method == "Prototypes":
            side: Plain = PlainPrototypes(model, self.ways, loss)
        else:
            rule = copy.copy(self.rule)
            if rule.rates is not None:
                rates = {n: r.to(self.dtype).to(dtype) for n, r in rule.rates.items()}
                rule.rates = {n: r.requires_grad_() for n, r in rates.items()}
            method = {"Pretrained": "joint", "Reptile": "reptile"}.get(self.method, "query")
            first_order = self.first_order or method == "reptile"
            adapts = self.adapts
            if self.method in ("ANIL", "HyperRepresentation"):
                adapts = names_of(model, model[-1])
            zero = self.method == "HyperRepresentation"
            how = method, first_order, adapts, zero, self.batch
            side = Plain(model, rule, self.steps, loss, *how)
        side.train(self.training)
        self._set_part(model)
        return side

    def _parts(self, dtype: torch.dtype) -> tuple[nn.Module, Any]:
        model = copy.deepcopy(self.network).to(self.dtype).to(dtype)
        loss = copy.deepcopy(self.loss) if isinstance(self.loss, nn.Module) else self.loss
        if isinstance(loss, nn.Module):
            loss.to(self.dtype).to(dtype)
        if "hook on a parameter" in self.notes:
            first = next(p for p in model.parameters() if p.requires_grad)
            first.register_hook(lambda g: 3 * g)
        if "forward hook" in self.notes:
            next(model.children()).register_forward_hook(lambda module, args, y: 0.8 * y)
        return model, loss


class Prototypes(Learner):
    """The learner of fifteen lines: class means of embeddings, and squared distances to them."""

    def __init__(self, model: nn.Module, ways: int, loss: Any = F.cross_entropy) -> None:
        super().__init__(loss)
        self.model, self.ways = model, ways

    def embed(self, x: Tensor) -> Tensor:
        return self.model(x.flatten(0, 1)).unflatten(0, x.shape[:2])  # [T, N, E]

    def adapt(self, support: Batch, steps: int | None = None) -> Tensor:
        members = F.one_hot(support.y, self.ways).mT.to(self.embed(support.x).dtype)
        return members @ self.embed(support.x) / members.sum(-1, keepdim=True)

    def predict(self, adapted: Tensor, x: Tensor) -> Tensor:
        return -(self.embed(x)[:, :, None] - adapted[:, None]).square().sum(-1)


def accepted(kind: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Those options that a constructor takes."""
    parameters = inspect.signature(kind).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return options
    return {name: value for name, value in options.items() if name in parameters}


def takes(option: str) -> bool:
    """Whether descending learners have an option."""
    return option in inspect.signature(metanotes.InnerLoopLearner).parameters


def package_rule(rule: Rule) -> metanotes.UpdateRule:
    match rule.kind:
        case "SGD":
            return metanotes.SGD(rule.lr)
        case "Momentum":
            return metanotes.Momentum(rule.lr, rule.momentum, rule.nesterov)
        case "RMSprop":
            return metanotes.RMSprop(rule.lr, rule.decay, rule.eps)
        case "Adam":
            return metanotes.Adam(rule.lr, rule.betas, rule.eps)
    raise ValueError(rule.kind)


def names_of(model: nn.Module, part: nn.Module) -> list[str]:
    """The names, in the model, of the parameters of a part of it."""
    inside = {id(p) for p in part.parameters()}
    return [name for name, p in model.named_parameters() if id(p) in inside]
