"""What few readers do, and what must be right or refused."""

from __future__ import annotations

import torch
from torch import nn

import metanotes
from metanotes import Batch, Task
from tests.fuzz.draw import Draw
from tests.fuzz.modules import ByName, Pair
from tests.fuzz.sides import Case, names_of


def draw_oddities(draw: Draw, case: Case) -> None:
    """Something of that kind, now and then."""
    if case.tasks.support.x.ndim == 5 and draw.chance(0.1):
        case.notes.append("channels last")
    if draw.chance(0.04):
        case.notes.append("hook on a parameter")
    elif draw.chance(0.03):
        case.notes.append("forward hook")
    elif draw.chance(0.03):
        case.notes.append("first part in evaluation mode")
    learned_loss = isinstance(case.loss, nn.Module) and len(list(case.loss.parameters())) > 0
    if case.method == "Reptile" and (learned_loss or case.adapts is not None):
        case.refusable = "Reptile, which would never learn a part"
    if not draw.chance(0.1):
        return
    draw.choice(ODDITIES)(draw, case)
    if case.refusable:
        case.notes.append(case.refusable)


def _differentiated(draw: Draw, case: Case) -> None:
    real = [
        f"{name}.{key}"
        for name, batch in zip(Task._fields, case.tasks, strict=True)
        for key, t in batch._asdict().items()
        if t.is_floating_point()
    ]
    if real:
        case.differentiated = (draw.choice(real),)
        case.refusable = f"{case.differentiated[0]} requires a gradient"


def _is_whole(case: Case) -> bool:
    """Whether nothing of the case depends on what the network looks like."""
    parts = "Prototypes", "ANIL", "HyperRepresentation", "MetaSGD"
    return case.method not in parts and case.adapts is None


def _dictionary(draw: Draw, case: Case) -> None:
    if _is_whole(case):
        case.refusable = "dict input"
        case.network = ByName(case.network)
        weight = [torch.full(b.y.shape[:2], 0.7, dtype=case.dtype) for b in case.tasks]
        pairs = zip(case.tasks, weight, strict=True)
        case.tasks = Task(*(Batch({"features": b.x, "weight": w}, b.y) for b, w in pairs))


def _two_outputs(draw: Draw, case: Case) -> None:
    if _is_whole(case):
        case.refusable = "two outputs"
        case.network = Pair(case.network)


def _no_reduction(draw: Draw, case: Case) -> None:
    if case.loss is metanotes.mse:
        case.refusable = "reduction none"
        case.loss = nn.MSELoss(reduction="none")


def _label_outside(draw: Draw, case: Case) -> None:
    support = case.tasks.support
    if case.loss is metanotes.cross_entropy and not support.y.is_floating_point():
        case.refusable = "label outside"
        y = support.y.clone()
        y[0, 0] = draw.choice([-1, 7])
        case.tasks = Task(Batch(support.x, y), case.tasks.query)


def _another_type(draw: Draw, case: Case) -> None:
    support = case.tasks.support
    if support.x.is_floating_point():
        case.refusable = "another type of numbers"
        other = torch.float32 if case.dtype == torch.float64 else torch.float64
        case.tasks = Task(Batch(support.x.to(other), support.y), case.tasks.query)


def _running_statistics(draw: Draw, case: Case) -> None:
    """Of a layer that came frozen, as in a network that was trained before; or did not."""
    x = case.tasks.support.x
    if case.method in ("MetaSGD", "Prototypes") or not isinstance(case.network, nn.Sequential):
        return
    if not x.is_floating_point() or x.ndim not in (3, 5):
        return
    kind = nn.BatchNorm1d if x.ndim == 3 else nn.BatchNorm2d
    layer = kind(x.shape[2], dtype=case.dtype)
    with torch.no_grad():
        layer.running_mean.copy_(0.3 * draw.normal(x.shape[2]))
        layer.running_var.copy_(draw.normal(x.shape[2]).square() + 0.5)
    if draw.chance(0.6):
        layer.eval()
        case.notes.append("frozen running statistics")
    else:
        case.refusable = "running statistics"
    case.network = nn.Sequential(layer, *case.network)
    if case.adapts is not None and case.adapts_as == "names":
        case.adapts = [f"{int(n.split('.')[0]) + 1}.{n.split('.', 1)[1]}" for n in case.adapts]
    elif case.adapts is not None:
        head = names_of(case.network, case.network[-1])
        body = case.adapts_as == "body"
        learned = [n for n, p in case.network.named_parameters() if p.requires_grad]
        case.adapts = [n for n in learned if (n in head) != body]


ODDITIES = (
    _differentiated,
    _dictionary,
    _two_outputs,
    _no_reduction,
    _label_outside,
    _another_type,
    _running_statistics,
    _running_statistics,
)
