"""Random cases, each from the number of its seed: a network, tasks, a method and its settings."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import metanotes
from metanotes import Batch, Learner, Task
from tests.fuzz.modules import (
    KINKED,
    SMOOTH,
    ByName,
    Draw,
    Mean,
    Pair,
    Scalar,
    activation,
    image_layers,
    sequence_layers,
    shaken,
    signal_layers,
    usual_block,
    vector_layers,
)
from tests.fuzz.plain import Plain, PlainPrototypes, Rule

ACTIVATIONS = tuple({type(make()) for make in SMOOTH + KINKED})

# ------------------------------------------------------------------------------------- losses


class Warm(nn.Module):
    """Cross entropy at a temperature that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs * self.temperature.exp(), y)


class Weighted(nn.Module):
    """Squares, with a weight that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.log_weight = nn.Parameter(torch.tensor(-0.2, dtype=torch.float64))

    def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
        return self.log_weight.exp() * (outputs - y).square().mean() - self.log_weight


def focal(outputs: Tensor, y: Tensor) -> Tensor:
    """A loss of a reader's."""
    right = F.log_softmax(outputs, 1).gather(1, y.unsqueeze(1))
    return -((1 - right.exp()) * right).mean()


def log_cosh(outputs: Tensor, y: Tensor) -> Tensor:
    """Another."""
    return ((outputs - y).cosh() + 0.1).log().mean()


LOSSES: dict[str, list[Callable[[], Any]]] = {
    "labels": [
        lambda: metanotes.cross_entropy,
        lambda: metanotes.cross_entropy,
        lambda: metanotes.cross_entropy,
        nn.CrossEntropyLoss,
        lambda: nn.CrossEntropyLoss(label_smoothing=0.1),
        lambda: partial(F.cross_entropy, label_smoothing=0.2),
        lambda: focal,
        Warm,
    ],
    "probabilities": [lambda: metanotes.cross_entropy, nn.CrossEntropyLoss, Warm],
    "real": [
        lambda: metanotes.mse,
        lambda: metanotes.mse,
        lambda: metanotes.mse,
        nn.MSELoss,
        lambda: nn.MSELoss(reduction="sum"),
        lambda: F.smooth_l1_loss,
        lambda: partial(F.huber_loss, delta=0.7),
        lambda: log_cosh,
        lambda: lambda outputs, y: (outputs - y).abs().mean(),
        Weighted,
    ],
    "several": [nn.BCEWithLogitsLoss, lambda: F.binary_cross_entropy_with_logits],
}

# ------------------------------------------------------------------------------------- the case


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
    tasks: Task = None  # type: ignore[assignment]
    differentiated: tuple[str, ...] = ()
    refusable: str = ""
    notes: list[str] = field(default_factory=list)
    evaluation_steps: int | None = None
    change: Change = Change("nothing")

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
            f"x {list(first.shape)} and {list(firstq.shape)[1:2]}, y {list(self.tasks.support.y.shape)}",
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
                for name, rate in learner.rule.rates.items():  # type: ignore[union-attr]
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
                adapts = names_of(model, model[-1])  # type: ignore[index]
            zero = self.method == "HyperRepresentation"
            side = Plain(model, rule, self.steps, loss, method, first_order, adapts, zero)
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


def describe_loss(loss: Any) -> str:
    if isinstance(loss, partial):
        return f"partial({loss.func.__name__}, {loss.keywords})"
    return getattr(loss, "__name__", repr(loss))


# ------------------------------------------------------------------------------------ the draws


def case(seed: int) -> Case:
    """The case of a seed: always the same."""
    draw = Draw(seed)
    case = Case(seed)
    examples, queries = _count(draw), _count(draw)
    tasks = draw.choice([1, 2, 3, 3, 4, 5])
    case.dtype = torch.float64 if draw.chance(0.7) else torch.float32
    case.training = draw.chance(0.75)
    case.method = draw.choice(METHODS)
    _draw_settings(draw, case)
    if case.method == "Prototypes":
        examples = 0  # ways times shots
    _draw_network(draw, case, tasks, examples, queries)
    if case.method not in ("Prototypes", "MetaSGD"):
        _draw_parts(draw, case)
    if case.method == "MetaSGD":
        case.rule.kind = "LearnedRates"
        learned = {n: p for n, p in case.network.named_parameters() if p.requires_grad}
        case.rule.rates = {n: 0.1 + 0.05 * draw.normal(*p.shape) for n, p in learned.items()}
    _draw_oddities(draw, case)
    case.change = draw_change(draw, case)
    case.evaluation_steps = draw.choice([None, 0, 1, 2, 3])
    return case


METHODS = (
    *("MAML",) * 7,
    *("InnerLoopLearner",) * 4,
    *("ANIL",) * 2,
    *("MetaSGD",) * 2,
    *("Reptile",) * 2,
    *("Pretrained",) * 2,
    "HyperRepresentation",
    "Prototypes",
)


def _count(draw: Draw) -> int:
    return draw.choice([1, 1, 1, 2, 2, 3, 4, 5, 6, 9])


def _draw_settings(draw: Draw, case: Case) -> None:
    case.first_order = draw.chance(0.25)
    case.steps = draw.choice([0, 1, 1, 1, 2, 2, 3, 4])
    case.rule = Rule(lr=draw.real(0.02, 0.3))
    if case.method == "Reptile":
        case.steps, case.first_order = max(1, case.steps), True
    if case.method in ("Reptile", "InnerLoopLearner"):
        case.rule.kind = draw.choice(["SGD", "Momentum", "RMSprop", "Adam"])
        case.rule.momentum, case.rule.nesterov = draw.real(0.0, 0.95), draw.chance(0.5)
        case.rule.decay = draw.real(0.0, 0.95)
        case.rule.betas = (draw.choice([0.0, 0.5, 0.9]), draw.choice([0.5, 0.9, 0.999]))
        case.rule.eps = draw.choice([1e-2, 0.1, 1.0])
        if case.rule.kind in ("RMSprop", "Adam"):
            case.rule.lr /= 4
    for option, p in {"keep_graph": 0.15, "checkpoint": 0.2, "record": 0.15}.items():
        if draw.chance(p):
            case.options[option] = True
    if case.options.get("keep_graph"):
        case.options.pop("checkpoint", None)


def _draw_network(draw: Draw, case: Case, tasks: int, examples: int, queries: int) -> None:
    """The network, the tasks and the loss; drawn again until torch can run them."""
    for _ in range(50):
        kind = draw.choice(["vector"] * 4 + ["image"] * 5 + ["signal", "sequence", "sequence", "tokens"])
        target = draw.choice(["labels"] * 5 + ["real"] * 4 + ["probabilities", "several"])
        if case.method == "Prototypes":
            target = "labels"
        # The prototypes' embedding works on the examples of all tasks at once.
        mixing = case.method != "Prototypes"
        outputs = draw.integer(2, 5)
        case.ways = outputs if target == "labels" else 0
        case.notes = []
        n = case.ways * draw.integer(1, 2) if case.method == "Prototypes" else examples
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            size, layers, width = _draw_body(draw, kind, mixing)
            try:
                network, shape = _with_head(draw, size, layers, width, outputs, target, case.notes)
            except (RuntimeError, ValueError):
                continue
        x = _inputs(draw, kind, size, (tasks, n))
        xq = _inputs(draw, kind, size, (tasks, queries))
        y, yq = (_targets(draw, target, outputs, shape, (tasks, m)) for m in (n, queries))
        if case.method == "Prototypes":
            shots = torch.arange(n) % case.ways
            y = torch.stack([shots[draw.order(n)] for _ in range(tasks)])
        case.tasks = _laid_out(draw, Task(Batch(x, y), Batch(xq, yq)), case.notes)
        case.network = shaken(draw, network)
        case.loss = draw.choice(LOSSES[target])()
        if _runs(case) and _conditioned(case):
            _round(case)
            return
    raise RuntimeError(f"seed {case.seed} gives no network that torch can run")


def _draw_body(draw: Draw, kind: str, mixing: bool) -> tuple[Any, list[nn.Module], int | None]:
    """The shape of an example, the layers, and their width where it is not to be tried out."""
    match kind:
        case "vector":
            size = draw.integer(1, 5)
            layers, width = vector_layers(draw, size, mixing)
            return (size,), layers, width
        case "image" if draw.chance(0.03):  # so much work that it is done in groups of tasks
            blocks = usual_block(draw, 3, 24, mixing) + usual_block(draw, 24, 48, mixing)
            return (3, 28, 28), [*blocks, nn.Flatten()], None
        case "image":
            channels = draw.integer(1, 3)
            size = (channels, draw.integer(4, 8), draw.integer(4, 8))
            layers = image_layers(draw, channels, mixing)
            if draw.chance(0.3):
                layers.append(nn.AdaptiveAvgPool2d(1))
            return size, [*layers, nn.Flatten()], None
        case "signal":
            channels = draw.integer(1, 3)
            size = (channels, draw.integer(5, 9))
            return size, [*signal_layers(draw, channels, mixing), nn.Flatten()], None
        case "sequence":
            width = draw.choice([2, 4])
            size = (draw.integer(1, 4), width)
            end = draw.choice([Mean, nn.Flatten])()
            return size, [*sequence_layers(draw, width, mixing), end], None
    width, words = draw.choice([2, 4]), draw.integer(3, 7)
    padding = draw.integer(0, words - 1) if draw.chance(0.5) else None
    layers = [nn.Embedding(words, width, padding_idx=padding)]
    if draw.chance(0.5):
        layers += sequence_layers(draw, width, mixing)
    return (draw.integer(1, 5), words), [*layers, draw.choice([Mean, nn.Flatten])()], None


def _with_head(
    draw: Draw,
    size: Any,
    layers: list[nn.Module],
    width: int | None,
    outputs: int,
    target: str,
    notes: list[str],
) -> tuple[nn.Module, str]:
    """The network, and what its outputs look like."""
    body = nn.Sequential(*layers).double()
    if width is None:
        tokens = any(isinstance(m, nn.Embedding) for m in layers)
        x = torch.zeros(3, size[0], dtype=torch.long) if tokens else torch.ones(3, *size).double()
        width = copy.deepcopy(body)(x).shape[1]
    shape = "plain"
    head: list[nn.Module] = [nn.Linear(width, outputs, bias=draw.chance(0.8))]
    if target == "real" and draw.chance(0.2):
        head, shape = [nn.Linear(width, 1), Scalar()], "scalar"
    elif target == "labels" and draw.chance(0.1):
        head, shape = [nn.Linear(width, 3 * outputs), nn.Unflatten(1, (outputs, 3))], "dense"
    elif draw.chance(0.15):
        head = [nn.Linear(width, 3), activation(draw), nn.Linear(3, outputs)]
    linear = [m for m in body.modules() if isinstance(m, nn.Linear) and "weight" in m._parameters]
    tied = [m for m in linear if m.in_features == m.out_features]
    if len(tied) > 1 and draw.chance(0.3) and tied[0].weight.shape == tied[1].weight.shape:
        tied[1].weight = tied[0].weight
        notes.append("tied weights")
    end = head[0] if len(head) == 1 else nn.Sequential(*head)
    nested = draw.chance(0.3) and len(layers) > 0
    layers = layers or [nn.Identity()]  # there is a body, if it does nothing
    network = nn.Sequential(nn.Sequential(*layers), end) if nested else nn.Sequential(*layers, end)
    return network, shape


def _inputs(draw: Draw, kind: str, size: Any, leading: tuple[int, int]) -> Tensor:
    if kind == "tokens":
        return draw.labels(size[1], *leading, size[0])
    return draw.normal(*leading, *size)


def _targets(draw: Draw, target: str, outputs: int, shape: str, leading: tuple[int, int]) -> Tensor:
    match target:
        case "labels":
            return draw.labels(outputs, *leading, *([3] if shape == "dense" else []))
        case "probabilities":
            return draw.normal(*leading, outputs).softmax(-1)
        case "several":
            return draw.labels(2, *leading, outputs).double()
    return draw.normal(*leading) if shape == "scalar" else draw.normal(*leading, outputs)


def _laid_out(draw: Draw, tasks: Task, notes: list[str]) -> Task:
    """Now and then in another order in memory, or one tensor for all tasks."""
    x = tasks.support.x
    if draw.chance(0.1):
        notes.append("x transposed in memory")
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
    elif draw.chance(0.05):
        notes.append("x expanded over the tasks")
        x = x[:1].expand_as(x)
    elif x.ndim == 5 and draw.chance(0.15):
        notes.append("images channels last")
        x = x.movedim(2, -1).contiguous().movedim(-1, 2)
    return Task(Batch(x, tasks.support.y), tasks.query)


def _runs(case: Case) -> bool:
    """Whether torch runs the network on these tasks, in both modes, and on one task's all."""
    try:
        for mode in (True, False):
            model = copy.deepcopy(case.network).train(mode)
            with torch.no_grad():
                for batch in case.tasks:
                    if not model(batch.x[0]).isfinite().all():
                        return False
    except (RuntimeError, ValueError):
        return False
    return True


def _conditioned(case: Case) -> bool:
    """Whether its meta-gradient can be worked out at all: moderate numbers, not rounding errors."""
    side = case.plain()
    try:
        losses = side.losses(case.tasks)
        gradients = side.gradients(losses.mean())
    except (RuntimeError, NotImplementedError):
        return False  # torch has no second derivative of something
    size = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt()
    return bool(losses.abs().max() < 1e3) and bool(size < 1e4) and bool(size == size)


def _round(case: Case) -> None:
    """Weights and tasks to the precision of the case."""
    case.network = case.network.to(case.dtype)
    case.tasks = case.own_tasks(dtype=case.dtype)


def _draw_parts(draw: Draw, case: Case) -> None:
    """What is frozen, what adapts, minibatches of the inner loop."""
    names = [n for n, _ in case.network.named_parameters()]
    head = names_of(case.network, case.network[-1])  # type: ignore[index]
    body = [n for n in names if n not in head]
    if draw.chance(0.2) and len(body) > 0:
        frozen = [n for n in body if draw.chance(0.5)]
        for name in frozen:
            case.network.get_parameter(name).requires_grad_(False)
        if frozen:
            case.notes.append(f"frozen {', '.join(frozen)}")
    learned = [n for n, p in case.network.named_parameters() if p.requires_grad]
    asked, how = draw.chance(0.25), draw.choice(["names", "names", "head", "body", "module"])
    some = [n for n in learned if draw.chance(0.5)] or learned[:1]
    descends = case.method in ("MAML", "InnerLoopLearner", "Pretrained", "Reptile")
    if asked and descends and takes("adapts") and (how != "body" or set(body) & set(learned)):
        case.adapts_as = how
        chosen = {"names": some, "head": head, "module": head, "body": body}[how]
        case.adapts = [n for n in learned if n in chosen]
    # Minibatches come in a random order: as large as the set, or of examples that are all alike.
    small = draw.chance(0.2), draw.chance(0.5)
    if small[0] and (case.method == "Reptile" or (descends and takes("batch"))):
        alike = [Batch(*(t[:, :1].expand_as(t) for t in batch)) for batch in case.tasks]
        n, m = (batch.y.shape[1] for batch in case.tasks)
        if small[1]:
            first = case.tasks.support
            x, y = first.x[:, :1], first.y[:, :1]
            alike = [Batch(*(t.repeat_interleave(k, 1) for t in (x, y))) for k in (n, m)]
            case.tasks, case.batch = Task(*alike), 1
            case.notes.append("examples of a task all alike")
        else:
            case.batch = n + m if case.method == "Reptile" else n


def _draw_oddities(draw: Draw, case: Case) -> None:
    """What few readers do, and what must be right or refused."""
    x = case.tasks.support.x
    if x.ndim == 5 and draw.chance(0.1):
        case.notes.append("channels last")
    if draw.chance(0.04):
        case.notes.append("hook on a parameter")
    elif draw.chance(0.03):
        case.notes.append("forward hook")
    elif draw.chance(0.03):
        case.notes.append("first part in evaluation mode")
    if not draw.chance(0.1):
        return
    real = [f"{n}.{k}" for n, b in zip(Task._fields, case.tasks, strict=True) for k, t in b._asdict().items() if t.is_floating_point()]
    match draw.integer(0, 6):
        case 0 if real:
            case.differentiated = (draw.choice(real),)
            case.refusable = f"{case.differentiated[0]} requires a gradient"
        case 1 if case.method != "Prototypes" and case.adapts_as == "names" and case.adapts is None and case.method not in ("ANIL", "HyperRepresentation", "MetaSGD"):
            case.refusable = "dict input"
            case.network = ByName(case.network)
            case.tasks = Task(*(Batch({"features": b.x, "weight": torch.ones(b.x.shape[:2], dtype=case.dtype) * 0.7}, b.y) for b in case.tasks))
        case 2 if case.method not in ("Prototypes", "ANIL", "HyperRepresentation", "MetaSGD") and case.adapts is None:
            case.refusable = "two outputs"
            case.network = Pair(case.network)
        case 3 if case.loss is metanotes.mse:
            case.refusable = "reduction none"
            case.loss = nn.MSELoss(reduction="none")
        case 4 if case.loss is metanotes.cross_entropy and not case.tasks.support.y.is_floating_point():
            case.refusable = "label outside"
            y = case.tasks.support.y.clone()
            y[0, 0] = draw.choice([-1, 7])
            case.tasks = Task(Batch(x, y), case.tasks.query)
        case 5 if x.is_floating_point():
            case.refusable = "another type of numbers"
            other = torch.float32 if case.dtype == torch.float64 else torch.float64
            case.tasks = Task(Batch(x.to(other), case.tasks.support.y), case.tasks.query)
        case 6 if isinstance(case.network, nn.Sequential) and case.method != "Prototypes" and x.ndim == 3 and x.is_floating_point():
            case.refusable = "running statistics"
            case.network = nn.Sequential(nn.BatchNorm1d(x.shape[2], dtype=case.dtype), *case.network)
    if case.refusable:
        case.notes.append(case.refusable)


# ---------------------------------------------------------------------------------- the changes


def draw_change(draw: Draw, case: Case) -> Change:
    """What is changed after three calls."""
    if case.refusable:
        return Change("nothing")
    kinds = ["tasks", "weights", "in place"]
    if not case.options.get("record"):  # who records has promised to change nothing else
        kinds += ["mode", "mode", "activation", "activation", "loss"]
    if case.method != "Prototypes" and not case.options.get("record"):
        kinds += ["steps", "steps", "first order", "freeze"]
        kinds += ["lr", "lr", "lr"] * (case.rule.kind != "LearnedRates")
    return CHANGES[draw.choice(kinds)](draw, case)


def _mode(draw: Draw, case: Case) -> Change:
    mode = not case.training
    return Change("train" if mode else "eval", lambda side: side.train(mode))


def _other_tasks(draw: Draw, case: Case) -> Change:
    """More tasks, in another order; each with one example more, where that is the same problem."""
    n = case.tasks.support.y.shape[1]
    more = 0 if case.batch is not None or case.method == "Prototypes" else draw.integer(0, 1)
    rows = draw.labels(len(case.tasks.support.y), draw.integer(1, 5))
    picks = [*range(n), *([draw.integer(0, n - 1)] if more else [])]
    x, y = (t[rows][:, picks] for t in case.tasks.support)
    tasks = Task(Batch(x, y), Batch(*(t[rows] for t in case.tasks.query)))
    return Change(f"{len(rows)} tasks of {len(picks)}", None, tasks)


def _steps(draw: Draw, case: Case) -> Change:
    steps = draw.choice([k for k in range(1, 4) if k != case.steps])
    kind = draw.choice([int, np.int64, np.int32])
    return Change(f"steps={kind.__name__}({steps})", lambda side: setattr(side, "steps", kind(steps)))


def _lr(draw: Draw, case: Case) -> Change:
    lr, kind = case.rule.lr * draw.real(0.3, 1.7), draw.choice([float, np.float64, np.float32])
    value = kind(lr)

    def apply(side: Any) -> None:
        side.rule.lr = float(value) if isinstance(side, Plain) else value

    return Change(f"lr={kind.__name__}({lr:.4g})", apply)


def _first_order(draw: Draw, case: Case) -> Change:
    if case.method == "Reptile":
        return _steps(draw, case)
    other = not case.first_order
    return Change(f"first_order={other}", lambda side: setattr(side, "first_order", other))


def _freeze(draw: Draw, case: Case) -> Change:
    names = [n for n, p in case.network.named_parameters() if p.requires_grad]
    adapts = names if case.adapts is None else case.adapts
    if case.method in ("ANIL", "HyperRepresentation"):
        adapts = names_of(case.network, case.network[-1])  # type: ignore[index]
    free = [n for n in names if n not in adapts or len(adapts) > 1]
    free = [n for n in free if case.method != "HyperRepresentation" or n not in adapts]
    if len(names) < 2 or not free:
        return _steps(draw, case)
    name = draw.choice(free)

    def apply(side: Any) -> None:
        side.model.get_parameter(name).requires_grad_(False)

    return Change(f"{name} frozen", apply)


def _weights(draw: Draw, case: Case) -> Change:
    name, p = draw.choice([*case.network.named_parameters()])
    if case.method == "HyperRepresentation" and name in names_of(case.network, case.network[-1]):  # type: ignore[index]
        name, p = next(iter(case.network.named_parameters()))
    value = (p.detach().double() + 0.2 * draw.normal(*p.shape)).to(case.dtype)

    def apply(side: Any) -> None:
        p = side.model.get_parameter(name)
        p.data = value.to(p.dtype).clone()

    return Change(f"data of {name} replaced", apply)


def _in_place(draw: Draw, case: Case) -> Change:
    def apply(side: Any) -> None:
        with torch.no_grad():
            for p in dict.fromkeys(side.model.parameters()):
                p.mul_(0.75)

    return Change("all weights times 3/4", apply)


def _activation(draw: Draw, case: Case) -> Change:
    modules = [n for n, m in case.network.named_modules() if isinstance(m, ACTIVATIONS)]
    modules = [n for n in modules if not list(case.network.get_submodule(n).parameters())]
    if not modules:
        return _mode(draw, case)
    name, new = draw.choice(modules), draw.choice([nn.Tanh, nn.Softsign, nn.ReLU, nn.Sigmoid])

    def apply(side: Any) -> None:
        parent, _, key = name.rpartition(".")
        setattr(side.model.get_submodule(parent), key, new())

    return Change(f"{name} is {new.__name__}", apply)


def _loss(draw: Draw, case: Case) -> Change:
    if case.tasks.support.y.is_floating_point():
        new: Any = draw.choice([log_cosh, F.smooth_l1_loss, nn.MSELoss()])
    else:
        new = draw.choice([focal, partial(F.cross_entropy, label_smoothing=0.3)])
    return Change(f"loss {describe_loss(new)}", lambda side: _set_loss(side, new))


def _set_loss(side: Any, new: Any) -> None:
    if isinstance(side.loss, nn.Module) and not isinstance(new, nn.Module):
        del side.loss
    side.loss = new


CHANGES: dict[str, Callable[[Draw, Case], Change]] = {
    "mode": _mode,
    "tasks": _other_tasks,
    "steps": _steps,
    "lr": _lr,
    "first order": _first_order,
    "freeze": _freeze,
    "weights": _weights,
    "in place": _in_place,
    "activation": _activation,
    "loss": _loss,
}
