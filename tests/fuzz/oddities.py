"""What few readers do, and what must be right or refused."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import metanotes
from metanotes import Batch, Task
from tests.fuzz.draw import Draw
from tests.fuzz.modules import ByName, Named, Pair
from tests.fuzz.networks import normalizes_groups
from tests.fuzz.sides import Case, names_of


def draw_oddities(draw: Draw, case: Case) -> None:
    """Something of that kind, now and then."""
    if case.tasks.support.x.ndim == 5 and draw.chance(0.1) and not normalizes_groups(case.network):
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
    if draw.chance(0.5):
        _padding_of_later_tasks(case)
    if not draw.chance(0.13):
        return
    draw.choice(ODDITIES)(draw, case)
    if case.refusable:
        case.notes.append(case.refusable)


def padding_word(network: nn.Module) -> int | None:
    """The word of no meaning, if there is one."""
    words = [m.padding_idx for m in network.modules() if isinstance(m, nn.Embedding)]
    return words[0] if words else None


def without(word: int, tasks: Task) -> Task:
    """Another word in its place."""
    other = 0 if word > 0 else 1
    return Task(*(Batch(b.x.masked_fill(b.x == word, other), b.y) for b in tasks))


def _padding_of_later_tasks(case: Case) -> None:
    """Padding in the tasks after the second only, if there are more: a trial of two sees none."""
    word = padding_word(case.network)
    if word is not None:
        case.tasks = without(word, case.tasks)
        for batch in case.tasks:
            batch.x[2:, :, 0] = word
        case.notes.append("padding in later tasks only")


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


def _named_outputs(draw: Draw, case: Case) -> None:
    if _is_whole(case):
        case.refusable = "outputs by name"
        case.network = Named(case.network)


def _whole_numbers(draw: Draw, case: Case) -> None:
    if case.tasks.support.x.is_floating_point():
        case.refusable = "whole numbers"
        kind = draw.choice([torch.long, torch.int32, torch.uint8])
        case.tasks = Task(*(Batch((9 * b.x).abs().to(kind), b.y) for b in case.tasks))


def _numpys_array(draw: Draw, case: Case) -> None:
    case.refusable = "an array in place of a tensor"
    x: Any = case.tasks.support.x.numpy()
    case.tasks = Task(Batch(x, case.tasks.support.y), case.tasks.query)


def _targets_that_broadcast(draw: Draw, case: Case) -> None:
    support = case.tasks.support
    if case.loss is metanotes.mse:
        case.refusable = "targets of another shape"
        case.tasks = Task(Batch(support.x, support.y[..., None]), case.tasks.query)


def _several_labels(draw: Draw, case: Case) -> None:
    support = case.tasks.support
    if case.method == "Prototypes":  # a learner of the reader's, which checks no labels
        return
    if case.loss is metanotes.cross_entropy and not support.y.is_floating_point():
        case.refusable = "several labels of an example"
        y = torch.stack([support.y, support.y], -1)
        case.tasks = Task(Batch(support.x, y), case.tasks.query)


def _no_reduction(draw: Draw, case: Case) -> None:
    if case.loss is metanotes.mse:
        case.refusable = "reduction none"
        case.loss = nn.MSELoss(reduction="none")


def _label_outside(draw: Draw, case: Case) -> None:
    support = case.tasks.support
    if case.loss is metanotes.cross_entropy and not support.y.is_floating_point():
        case.refusable = "label outside"
        y = support.y.clone()
        y[0, 0] = draw.choice([-1, 7, -100])
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
    _named_outputs,
    _whole_numbers,
    _whole_numbers,
    _numpys_array,
    _targets_that_broadcast,
    _several_labels,
    _no_reduction,
    _label_outside,
    _another_type,
    _running_statistics,
    _running_statistics,
)
