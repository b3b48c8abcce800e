"""theta: the parameters of T tasks by name, each with a leading task axis.

    theta^n = {"weight": [T, ...], ...}        over_tasks(f)(theta, x) = (f(theta^1, x^1), ...)

A model is written for one task. `over_tasks` applies a function of one task to all of them: one by
one, unless a plan of the engine's is in force (`How`), which has tried `torch.func.vmap` on the
very function and compared. The value is the same either way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import vmap

from metanotes.task import Inputs, task_count

__all__ = [
    "How",
    "KnownGradient",
    "call",
    "in_force",
    "leaves",
    "losses_and_gradients",
    "over_tasks",
    "trainable",
    "with_task_axis",
]

Theta = dict[str, Tensor]
Part = nn.Module | str
TaskLoss = Callable[[Theta, Any, Tensor], Tensor]  # theta, x and y of one task -> scalar


# ------------------------------------------------------------------------------ parameters by name


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

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> call(layer, {"weight": torch.ones(1, 2)}, torch.tensor([[1.0, 2.0]]))
    tensor([[3.]])
    """
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
        if part in ("head", "body") and part not in modules:
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


# ------------------------------------------------------------------------------ over all tasks


class How(NamedTuple):
    """In which way functions of one task are applied to T tasks.

    Args:
        at_once: by `vmap`, rather than one by one.
        apart: predictions one by one all the same. Weights that differ between tasks make vmap's
            convolutions grouped ones; on a CPU, for many examples, an ordinary one a task is
            faster.
        channels_last: images of one task with their channels last in memory: faster on a CPU.
        layers: makes a context in which functions of `torch.nn` under `vmap` are worked out in
            another way.
        stacked: makes a context in which functions of torch take tensors of all tasks, without
            `vmap`, or refuse to (`NotStackable`): then one by one.
        on_trial: let the refusal through.

    >>> How(at_once=True).channels_last
    False
    """

    at_once: bool = False
    apart: bool = False
    channels_last: bool = False
    layers: Callable[[], AbstractContextManager[Any]] = nullcontext
    stacked: Callable[[], AbstractContextManager[Any]] | None = None
    on_trial: bool = False


class NotStackable(NotImplementedError):
    """A function of one task that cannot be given tensors of all tasks."""


IN_FORCE: ContextVar[How | None] = ContextVar("how tasks are worked on", default=None)
ONE_BY_ONE = How()


def present() -> How:
    """The way that is in force: one by one, where no plan is."""
    return IN_FORCE.get() or ONE_BY_ONE


@contextmanager
def in_force(how: How) -> Iterator[None]:
    """While this lasts, `over_tasks` works in that way.

    >>> with in_force(How(at_once=True)):       # one call of vmap, and not three of torch.dot
    ...     over_tasks(torch.dot)(torch.ones(3, 2), torch.arange(6.0).view(3, 2))
    tensor([1., 5., 9.])
    """
    token = IN_FORCE.set(how)
    try:
        yield
    finally:
        IN_FORCE.reset(token)


def over_tasks(function: Callable[..., Tensor], *, predicts: bool = False) -> Callable[..., Tensor]:
    """A function of one task, as a function of all tasks.

    Args:
        function: of tensors, or dicts and tuples of them, without a task axis, to a tensor.
        predicts: whether it works on query sets, of many examples, with weights of the tasks' own.

    Returns:
        The function of the same arguments, each with a leading task axis, to a tensor `[T, ...]`.

    >>> over_tasks(torch.dot)(torch.ones(3, 2), torch.arange(6.0).view(3, 2))
    tensor([1., 5., 9.])
    """
    how = present()
    if how.at_once and not (predicts and how.apart):
        at_once = None if how.stacked else vmap(function, randomness="different")

        def run(*args: Any) -> Tensor:
            # A single task is a plain call: nothing is gained, and torch reads strides of a batch
            # of one otherwise than those of many.
            if task_count(args) == 1:
                return each(function, args, how)
            if at_once is None:
                return stacked(function, args, how)
            with how.layers():
                return at_once(*args)

        return run
    return lambda *args: each(function, args, how)


def of_task(args: Any, n: int, how: How = ONE_BY_ONE) -> Any:
    """The n-th task's part of arguments with a leading task axis."""
    if isinstance(args, dict):
        return {name: of_task(t, n, how) for name, t in args.items()}
    if isinstance(args, tuple | list):  # by hand: torch's tree_map takes as long as a small layer
        parts = [of_task(t, n, how) for t in args]
        return type(args)(*parts) if hasattr(args, "_fields") else type(args)(parts)
    one = args[n]
    if how.channels_last and one.ndim == 4 and one.is_floating_point():
        rows = one.movedim(-3, -1).clone(memory_format=torch.contiguous_format)
        one = rows.movedim(-1, -3)  # N, H, W, C in memory (vmap lacks `memory_format=`)
    return one


def each(function: Callable[..., Tensor], args: Any, how: How = ONE_BY_ONE) -> Tensor:
    """A function of one task on each task in turn."""
    tasks = range(task_count(args))
    results = [function(*of_task(args, n, how)) for n in tasks]
    if not isinstance(results[0], Tensor):
        raise ValueError(f"a function of one task gave a {type(results[0]).__name__}, not a tensor")
    return torch.stack(results)


def stacked(function: Callable[..., Tensor], args: Any, how: How) -> Tensor:
    """A function of one task on tensors of all tasks, if it is such a one; else on each in turn."""
    assert how.stacked is not None
    try:
        with how.stacked():
            return function(*args)
    except NotStackable:
        if how.on_trial:
            raise
        return each(function, args, how)


# ------------------------------------------------------------------------ losses and gradients


def losses_and_gradients(
    loss: TaskLoss, theta: Theta, x: Inputs, y: Tensor, *, create_graph: bool = False
) -> tuple[Tensor, Theta]:
    """The loss of every task, `[T]`, and its gradient at theta.

    Only the forward pass is vmapped, and every derivative is ordinary autograd on top of it. The
    usual way round, an outer gradient of `vmap(grad(loss))`, is silently wrong where a module uses
    `F.batch_norm` with weights (torch 2.13; chapter 3 measures by how much).

    Args:
        loss: of one task.
        theta: tensors `[T, ...]`.
        x, y: what the tasks learn from, `[T, N, ...]`.
        create_graph: make the gradient differentiable, in theta and in all else that it depends
            on; otherwise it is held constant.

    >>> w, x, y = torch.ones(3, 1), torch.full((3, 4, 1), 2.0), torch.zeros(3, 4)
    >>> loss = lambda theta, x, y: ((x @ theta["w"] - y) ** 2).mean()
    >>> losses_and_gradients(loss, {"w": w}, x, y)[1]["w"].flatten()
    tensor([8., 8., 8.])
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "a descent needs gradients, and torch.inference_mode() forbids them: use "
            "torch.no_grad(), which the descent may leave for its own"
        )
    at = theta
    if not create_graph:
        at = leaves(theta)
    elif not all(t.requires_grad for t in theta.values()):
        at = {n: t if t.requires_grad else t.detach().requires_grad_() for n, t in theta.items()}
    with torch.enable_grad():
        losses = one_number_each(over_tasks(loss)(at, x, y))
        gradients = torch.autograd.grad(
            losses,
            list(at.values()),
            torch.ones_like(losses),  # of the sum: a task's loss depends on its own theta alone
            create_graph=create_graph,
            allow_unused=True,
        )
    return losses, {
        name: torch.zeros_like(t) if g is None else g
        for (name, t), g in zip(at.items(), gradients, strict=True)
    }


def one_number_each(losses: Tensor) -> Tensor:
    """The losses of tasks, if they are `[T]`.

    Raises:
        ValueError: they are not.

    >>> one_number_each(torch.ones(3))
    tensor([1., 1., 1.])
    >>> one_number_each(torch.ones(3, 5))
    Traceback (most recent call last):
    ValueError: the loss of one task is [5], not a scalar: use reduction='mean', ...
    """
    if losses.ndim != 1:
        raise ValueError(
            f"the loss of one task is {list(losses.shape[1:])}, not a scalar: use "
            "reduction='mean', or take the mean over the examples"
        )
    return losses


class KnownGradient(torch.autograd.Function):
    """Losses `[T]` whose gradients are known, so that no graph has to be kept for them.

    `KnownGradient.apply(losses, gradients, *theta)`: gradients and theta are alike, `[T, ...]`.

    >>> w = torch.tensor([[1.0], [2.0]], requires_grad=True)                # T = 2
    >>> KnownGradient.apply(w.detach().square().sum(1), [2 * w.detach()], w).mean().backward()
    >>> w.grad
    tensor([[1.],
            [2.]])
    """

    @staticmethod
    def forward(ctx: Any, losses: Tensor, gradients: Sequence[Tensor], *theta: Tensor) -> Tensor:
        ctx.gradients = gradients
        return losses.clone()

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # the gradients would count as constants, without a word
            raise RuntimeError(
                "these losses can be differentiated once (create_graph=True asks for more): "
                "make the learner with keep_graph=True or, if it has no such option, "
                "first_order=False"
            )
        gradients = (weights.view(-1, *[1] * (g.ndim - 1)) * g for g in ctx.gradients)
        return None, None, *gradients


def losses_pulled_back(loss: TaskLoss, theta: Theta, x: Inputs, y: Tensor) -> Tensor:
    """The losses of tasks, `[T]`, one by one, each pulled back before the next is worked out.

    So the graph of one task is alive at a time. Nothing but theta may be learned.
    """
    how, names = present(), list(theta)
    losses: list[Tensor] = []
    gradients: list[tuple[Tensor, ...]] = []
    for n in range(task_count(y)):
        one, x_n, y_n = of_task((dict(theta), x, y), n, how)
        one = leaves(one)
        losses.append(loss(one, x_n, y_n))
        gradients.append(
            torch.autograd.grad(losses[-1], [one[k] for k in names], materialize_grads=True)
        )
    together = [torch.stack(parts) for parts in zip(*gradients, strict=True)]
    return KnownGradient.apply(torch.stack(losses).detach(), together, *theta.values())


def flat(state: Sequence[Theta]) -> list[Tensor]:
    """All tensors of a rule's state, one after the other."""
    return [t for part in state for t in part.values()]
