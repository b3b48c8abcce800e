"""theta: the parameters of T tasks by name, each with a leading task axis.

    theta^n = {"weight": [T, ...], ...}

A model is a module as torch has it. Here are its parameters by name, a call with others in their
place, and the parts of it that may adapt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from metanotes.task import Inputs
from metanotes.theta.task_axis import present

Theta = dict[str, Tensor]
Part = nn.Module | str


def trainable(module: nn.Module) -> Theta:
    """The parameters of a module that require a gradient, by name, each once.

    >>> list(trainable(nn.Linear(2, 3)))
    ['weight', 'bias']
    """
    return {name: p for _, _, name, p in places(module) if p.requires_grad}


def call(module: nn.Module, theta: Theta, x: Inputs) -> Any:
    """The module's forward on x, with theta in place of the parameters of those names.

    A parameter that stands in several places, under several names, is replaced in all of them. A
    dict of inputs is given to the forward as keyword arguments.

    Raises:
        KeyError: theta has a name that no parameter of the module has.
        ValueError: within `torch.nn.utils.parametrize.cached()`, which keeps what the module's own
            parameters gave.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> call(layer, {"weight": torch.ones(1, 2)}, torch.tensor([[1.0, 2.0]]))
    tensor([[3.]])
    """
    if theta and parametrize._cache_enabled:
        raise ValueError(
            "torch.nn.utils.parametrize.cached() keeps weights that were made of the module's own "
            "parameters, and others stand in their place here: call the learner outside of it"
        )
    # `torch.func.functional_call` loses a parameter that stands under two names, and is slower.
    every = places(module)
    own = [place for place in every if place[2] in theta]
    if len(own) < len(theta):
        strange = theta.keys() - {name for _, _, name, _ in own}
        raise KeyError(f"{sorted(strange)} name no parameter of {type(module).__name__}")
    new = [theta[name] for _, _, name, _ in own]
    # Not while tasks are stacked: there are no images then, and a shape is not asked for.
    if present().stacked is None and isinstance(x, Tensor) and x.ndim == 4 and len(x) == 1:
        own += [place for place in every if place[2] not in theta]
        new += [place[3] for place in own[len(new) :]]
        x, *new = (in_plain_order(t) if t.ndim == 4 else t for t in (x, *new))
    args, kwargs = ((), x) if isinstance(x, dict) else ((x,), {})
    try:
        for (holder, short, _, _), t in zip(own, new, strict=True):
            holder[short] = t
        return module(*args, **kwargs)
    finally:
        for holder, short, _, p in own:
            holder[short] = p


def in_plain_order(p: Tensor) -> Tensor:
    """The same image or kernel in the usual order, also where axes of one number leave a choice.

    For a single image torch misreads strides where channels lie last, or could: beside layers that
    leave them first, something wrong is pulled back (torch 2.13, on a CPU). So `call` has neither.

    >>> kernel = torch.ones(3, 4, 1, 1).to(memory_format=torch.channels_last)
    >>> kernel.stride(), in_plain_order(kernel).stride()
    ((4, 1, 4, 4), (4, 1, 1, 1))
    """
    usual = tuple(math.prod(p.shape[axis + 1 :]) for axis in range(p.ndim))
    return p if p.stride() == usual else p.clone(memory_format=torch.contiguous_format)


Place = tuple[dict[str, Any], str, str, nn.Parameter]


def places(module: nn.Module) -> list[Place]:
    """Where a module holds its parameters, each part once: the dict, the name in it, the first of
    the names that the parameter has in the whole, and the parameter."""
    names: dict[int, str] = {}
    every: list[Place] = []
    seen: set[int] = set()

    def visit(part: nn.Module, prefix: str) -> None:
        seen.add(id(part))
        holder: dict[str, Any] = part._parameters
        for short, p in holder.items():
            if p is not None:
                every.append((holder, short, names.setdefault(id(p), prefix + short), p))
        for name, child in part._modules.items():
            if child is not None and id(child) not in seen:
                visit(child, f"{prefix}{name}.")

    visit(module, "")
    return every


def with_task_axis(phi: Theta, tasks: int) -> Theta:
    """phi for every task: `[...]` to `[T, ...]`, without a copy.

    >>> with_task_axis({"w": torch.zeros(2)}, 3)["w"].shape
    torch.Size([3, 2])
    """
    if not present().channels_last:
        return {name: p.expand(tasks, *p.shape) for name, p in phi.items()}
    # As in images, the channels of convolution weights lie side by side: no copies later on.
    return {
        name: (p.contiguous(memory_format=torch.channels_last) if p.ndim == 4 else p).expand(
            tasks, *p.shape
        )
        for name, p in phi.items()
    }


def leaves(theta: Theta) -> Theta:
    """The same numbers without a past, to be differentiated anew.

    >>> leaves({"w": torch.ones(3, 2)})["w"].requires_grad
    True
    """
    return {name: t.detach().requires_grad_() for name, t in theta.items()}


def flat(state: Sequence[Theta]) -> list[Tensor]:
    """All tensors of a rule's state, one after the other."""
    return [t for part in state for t in part.values()]


# ------------------------------------------------------------------------- parts of a model


def parts_of(model: nn.Module, adapts: Part | Sequence[Part]) -> frozenset[str]:
    """The names of the parameters of some parts of a model.

    Raises:
        ValueError: one is no part of the model.
    """
    parts = [adapts] if isinstance(adapts, nn.Module | str) else list(adapts)
    names = {id(p): name for name, p in model.named_parameters()}
    modules = dict(model.named_modules(remove_duplicate=False))
    every = dict(model.named_parameters(remove_duplicate=False))
    chosen: set[str] = set()
    for part in parts:
        if part in ("head", "body") and part not in modules and part not in every:
            head = check_head(model)
            assert isinstance(model, nn.Sequential)
            part = head if part == "head" else model[:-1]
        module = modules.get(part) if isinstance(part, str) else part
        if isinstance(part, str) and part in every:
            chosen.add(names[id(every[part])])
            continue
        if not isinstance(module, nn.Module):
            raise ValueError(
                f"adapts={part!r} names no part of the model: its modules are {list(modules)[1:]}, "
                f"its parameters {list(every)}"
            )
        strange = [n for n, p in module.named_parameters() if id(p) not in names]
        if strange:
            raise ValueError(f"adapts={part!r} is no part of the model: it has its own {strange}")
        chosen |= {names[id(p)] for p in module.parameters()}
    return frozenset(chosen)


def refuse_strange_gradients(model: nn.Module, phi: Theta) -> None:
    """What learned steps cannot work with, and would say so in torch's words alone.

    Raises:
        ValueError: an embedding that learns has sparse gradients, or what adapts is complex.
    """
    for name, module in model.named_modules():
        if (
            isinstance(module, nn.Embedding | nn.EmbeddingBag)
            and module.sparse
            and trainable(module)
        ):
            raise ValueError(
                f"the embedding {name or type(module).__name__!r} has sparse=True, gradients that "
                "cannot be differentiated: build it with sparse=False, or freeze it"
            )
    for name, p in phi.items():
        if p.is_complex():
            raise ValueError(
                f"the parameter {name!r} is {p.dtype}: keep real parameters, its real and "
                "imaginary parts, and make torch.view_as_complex of them in the forward"
            )


def check_head(model: nn.Module) -> nn.Module:
    """The last module of an `nn.Sequential`, which has parameters to adapt.

    Raises:
        ValueError: it is no such model.
    """
    if not isinstance(model, nn.Sequential) or len(model) < 2:
        raise ValueError(
            f"model={type(model).__name__} must be an nn.Sequential whose last module is the "
            "head: nn.Sequential(body, head)"
        )
    if not trainable(model[-1]):
        raise ValueError(f"the last module, {model[-1]}, has no parameter to adapt")
    return model[-1]


class Layers(nn.Module):
    """Some modules of an `nn.Sequential`, one after the other, under the names they have in it."""

    def __init__(self, layers: Sequence[tuple[str, nn.Module]]) -> None:
        super().__init__()
        for name, layer in layers:
            self._modules[name] = layer

    def forward(self, x: Any) -> Any:
        for layer in self._modules.values():
            assert layer is not None
            x = layer(x)
        return x
