"""Random cases, each from the number of its seed: a network, tasks, a method and its settings."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from metanotes import Batch, Task
from tests.fuzz.alterations import draw_change
from tests.fuzz.draw import Draw
from tests.fuzz.losses import LOSSES
from tests.fuzz.modules import BranchingOnSize, Mean, Scalar
from tests.fuzz.networks import (
    activation,
    image_layers,
    normalizes_groups,
    sequence_layers,
    shaken,
    signal_layers,
    usual_block,
    vector_layers,
)
from tests.fuzz.oddities import draw_oddities
from tests.fuzz.plain import Rule
from tests.fuzz.sides import Case, names_of, takes


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
    draw_oddities(draw, case)
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
    if case.method == "HyperRepresentation":
        case.first_order = False  # it has no such option
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
        kind = draw.choice(
            ["vector"] * 4 + ["image"] * 5 + ["signal", "sequence", "sequence", "tokens"]
        )
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
                how = layers, width, outputs, target, case.notes
                network, shape = _with_head(draw, size, *how, dense=mixing)
            except (RuntimeError, ValueError):
                continue
        x = _inputs(draw, kind, size, (tasks, n))
        xq = _inputs(draw, kind, size, (tasks, queries))
        y, yq = (_targets(draw, target, outputs, shape, (tasks, m)) for m in (n, queries))
        if case.method == "Prototypes":
            shots = torch.arange(n) % case.ways
            y = torch.stack([shots[draw.order(n)] for _ in range(tasks)])
        last = not normalizes_groups(network)
        case.tasks = _laid_out(draw, Task(Batch(x, y), Batch(xq, yq)), case.notes, last)
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
    dense: bool,
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
    elif target == "labels" and draw.chance(0.1) and dense:
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


def _laid_out(draw: Draw, tasks: Task, notes: list[str], last: bool) -> Task:
    """Now and then in another order in memory, or one tensor for all tasks."""
    x = tasks.support.x
    if draw.chance(0.1):
        notes.append("x transposed in memory")
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
    elif draw.chance(0.05):
        notes.append("x expanded over the tasks")
        x = x[:1].expand_as(x)
    elif x.ndim == 5 and draw.chance(0.15) and last:
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
    if not gradients:
        return False  # nothing would be learned
    size = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt()
    return bool(losses.abs().max() < 1e3) and bool(size < 1e4) and bool(size == size)


def _round(case: Case) -> None:
    """Weights and tasks to the precision of the case."""
    case.network = case.network.to(case.dtype)
    case.tasks = case.own_tasks(dtype=case.dtype)


def _draw_parts(draw: Draw, case: Case) -> None:
    """What is frozen, what adapts, minibatches of the inner loop."""
    names = [n for n, _ in case.network.named_parameters()]
    head = names_of(case.network, case.network[-1])
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
    by_size = any(isinstance(m, BranchingOnSize) for m in case.network.modules())
    by_size |= getattr(case.loss, "reduction", "mean") == "sum"
    alone = "BatchNorm1d" not in str(case.network)  # torch refuses one example by itself
    if small[0] and alone and (case.method == "Reptile" or (descends and takes("batch"))):
        n, m = (batch.y.shape[1] for batch in case.tasks)
        if small[1] and not by_size:
            first = case.tasks.support
            x, y = first.x[:, :1], first.y[:, :1]
            alike = [Batch(*(t.repeat_interleave(k, 1) for t in (x, y))) for k in (n, m)]
            case.tasks, case.batch = Task(*alike), 1
            case.notes.append("examples of a task all alike")
        else:
            case.batch = n + m if case.method == "Reptile" else n
