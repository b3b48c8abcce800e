"""Recordings: the operations of a meta-step, played back without modules and autograd.

With small networks, and on a GPU, the time goes into Python and the dispatch of operations, not
into arithmetic. A recording leaves that out. It is right as long as nothing but tensors changes,
which no code can know of another's: so recordings are asked for, by `record=True`, by
`compile=True`, or by `recording(learner)`, as a training loop does that owns all that happens in
it. Whoever asks gets a check: the first play and every 1 000th is compared with plain work.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from threading import RLock
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules import module as _hooks
from torch.utils._pytree import tree_flatten, tree_unflatten

from metanotes._ground.randomness import cuda_devices, random_state, replayed
from metanotes.engine.graph import DIRECT, draws, simplify, turn_products
from metanotes.engine.groups import Gradient, losses_and_gradient
from metanotes.engine.plan import Itself, Plan
from metanotes.engine.protocol import Learned, Options
from metanotes.task import Task, task_count, tensors_of

SIGHTS = 200  # tasks of one shape are seen so often before they are recorded
CHECKED = 1000  # plays from one check to the next
KEPT = 16  # recordings of a learner
COUNTED = 1024  # shapes whose sights are counted
NEVER = -(1 << 62)  # sights of what cannot be recorded

_one_at_a_time = RLock()  # torch's tracer keeps its state for the whole process


class Recording:
    """The operations of `losses_and_gradient` for tasks of one shape.

    Args:
        plan: by which they are worked on.
        operations: a function of the parameters and buffers of the learner and the tensors of the
            tasks. It gives the losses, then the gradient.
        random: whether it draws random numbers.
    """

    def __init__(self, plan: Plan, operations: Callable[..., list[Any]], random: bool) -> None:
        self.plan, self.operations, self.random, self.plays = plan, operations, random, 0

    def play(self, learner: Learned, tasks: Task, own: Sequence[Tensor]) -> tuple[Tensor, Gradient]:
        """The losses and the gradient, compared now and then with what they should be.

        Raises:
            RuntimeError: they are no longer those of the learner.
        """
        tensors = [*own, *tensors_of(tasks)]
        if self.plays % CHECKED:
            losses, *gradient = self.operations(*tensors)
        else:
            device = tensors[-1].device
            with replayed(random_state(device), device):
                right = losses_and_gradient(learner, tasks, self.plan)
            losses, *gradient = self.operations(*tensors)
            _check(losses, gradient, *right)
        self.plays += 1
        return losses, gradient


def _check(losses: Tensor, gradient: Gradient, right: Tensor, right_gradient: Gradient) -> None:
    rounding = 1e-6 if losses.dtype == torch.float64 else 0.02
    for ours, plain in zip([losses, *gradient], [right, *right_gradient], strict=True):
        if ours is None or plain is None:
            same = ours is plain
        else:
            scale = max(float(plain.norm()), 1e-6)
            same = not float((ours - plain).norm()) > rounding * scale + 1e-6
        if not same:
            raise RuntimeError(
                "the recorded operations give other losses or gradients than the learner: "
                "something else than tensors has changed since they were recorded (a setting, a "
                "module, a value in Python). Use record=False and compile=False, or make a new "
                "learner after the change"
            )


# ------------------------------------------------------------------------------ asking for them


@contextmanager
def recording(learner: nn.Module, seen: int = 0) -> Iterator[None]:
    """While this lasts, nothing but tensors changes in a learner: its operations may be recorded.

    They are dropped at the end. Modules and losses that are neither torch's nor ours may look at
    more than tensors, and hooks may do anything: with them nothing is recorded, unless the learner
    was made with `record=True`.

    Args:
        learner: whose operations are recorded.
        seen: iterations before, in a run that goes on. Tasks of one shape would have been recorded
            at the same iteration without a break: so they are, and the numbers agree to the bit.

    >>> from metanotes import MAML, mse
    >>> from metanotes.data import sinusoid
    >>> from metanotes.nets import mlp
    >>> learner, sample = MAML(mlp(1, 8, 1), inner_lr=0.1, loss=mse), sinusoid(seed=0)
    >>> with recording(learner):                # a training loop of your own
    ...     for _ in range(3):
    ...         learner(sample(4)).mean().backward()
    """
    workshop: Any = getattr(learner, "workshop", None)
    if workshop is None:
        yield
        return
    workshop.asked += 1
    workshop.seen = seen
    try:
        yield
    finally:
        workshop.asked -= 1
        workshop.seen = 0
        options: Any = learner.options
        if not (workshop.asked or options.record or options.compile):
            workshop.recordings.clear()


def asks_for_recordings(learner: Learned) -> bool:
    """Whether the learner, or a loop around it, has promised that only tensors change."""
    options = learner.options
    return options.record or options.compile or learner.workshop.asked > 0


class Asked(NamedTuple):
    """What recordings are asked for.

    Args:
        own: the parameters and buffers of the learner.
        key: all that a recording of these tasks depends on.
        recording: the one there is, if any.
    """

    own: list[Tensor]
    key: Hashable
    recording: Recording | None


def what_is_asked(learner: Learned, tasks: Task) -> Asked | None:
    """None where no recordings are asked for, or there can be none."""
    options, recordings = learner.options, learner.workshop.recordings
    if not asks_for_recordings(learner) or options.checkpoint or not torch.is_grad_enabled():
        return None
    modules = list(learner.modules())
    settings, ours_alone = settings_of(modules)
    if not (options.record or options.compile or ours_alone):
        return None
    own, tensors = tensors_held(modules), tensors_of(tasks)
    if any(t._backward_hooks for t in own):
        return None
    kinds = [(t.shape, t.stride(), t.dtype, t.device, t.requires_grad) for t in (*own, *tensors)]
    kind = tensors[0].device.type
    autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
    key = (settings, tuple(kinds), autocast, torch.get_default_dtype(), torch.get_num_threads())
    entry = recordings.get(key)
    return Asked(own, key, entry if isinstance(entry, Recording) else None)


def recorded(asked: Asked, learner: Learned, tasks: Task, plan: Plan) -> Recording | None:
    """A new recording, if these tasks have been seen often enough, and can be recorded."""
    # Random numbers that are drawn again cannot be recorded, nor can what is done one by one; and
    # what is done in groups is large, so that little would be gained.
    if not plan.how.at_once or plan.how.apart or plan.whole or task_count(tasks) > plan.group:
        return None
    recordings = learner.workshop.recordings
    entry = recordings.get(asked.key)
    if entry is None or isinstance(entry, int):
        _forget(recordings, new=entry is None)
        if entry is None:  # as often as the first shape of a run that goes on may have been seen
            entry, learner.workshop.seen = learner.workshop.seen, 0
        entry += 1
        if entry > SIGHTS or learner.options.compile:
            with _one_at_a_time:
                entry = record(learner, tasks, plan, asked.own)
        recordings[asked.key] = entry
    return entry if isinstance(entry, Recording) else None


def _forget(recordings: dict[Hashable, Any], new: bool) -> None:
    """Make room for one more: of many shapes, the first are forgotten."""
    kept = [key for key, entry in recordings.items() if isinstance(entry, Recording)]
    if len(kept) >= KEPT:
        del recordings[kept[0]]
    elif new and len(recordings) >= COUNTED:
        del recordings[next(iter(recordings))]


PLAIN = frozenset((bool, int, float, str, torch.Size, type(None), Options))


def tensors_held(modules: Iterable[nn.Module]) -> list[Tensor]:
    """The parameters and buffers of modules, by themselves, each once."""
    modules = list(modules)
    parameters = [p for m in modules for p in m._parameters.values() if p is not None]
    buffers = [b for m in modules for b in m._buffers.values() if b is not None]
    return list({id(t): t for t in (*parameters, *buffers)}.values())


def settings_of(modules: Iterable[nn.Module]) -> tuple[Hashable, bool]:
    """The settings of a learner's modules, and whether operations depend on nothing else.

    Of each module its class, its hooks, its attributes, and which of the learner's modules and
    tensors it holds under which names. Modules of `torch.nn` and of metanotes do what these say. A
    reader's own may look at whatever it likes, from one call to the next.
    """
    everywhere = (*_hooks._global_forward_hooks, *_hooks._global_forward_pre_hooks)
    parts: list[Any] = [everywhere]  # the numbers of the hooks, which no two share
    ours_alone = not everywhere
    numbers: dict[int, int] = {}
    for module in modules:
        kind = type(module)
        ours_alone &= kind.__module__.startswith(("torch.nn.modules.", "metanotes."))
        parts += kind, module.training
        if (
            module._forward_hooks
            or module._forward_pre_hooks
            or module._backward_hooks
            or module._backward_pre_hooks
        ):
            parts += *module._forward_hooks, *module._forward_pre_hooks
            parts += *module._backward_hooks, *module._backward_pre_hooks
            ours_alone = False
        for held in (module._modules, module._parameters, module._buffers):
            for name, value in held.items():
                parts += name, numbers.setdefault(id(value), len(numbers))
        for name, value in vars(module).items():
            if name in _OF_EVERY_MODULE:
                continue
            if type(value) in PLAIN:
                parts += name, value
            elif callable(value):  # a loss, an activation, a `forward` in place of the class's
                ours_alone &= f"{getattr(value, '__module__', None)}.".startswith("torch.")
                parts += name, Itself(value)
                if isinstance(value, partial):
                    parts.append(repr(value))
            else:
                parts += name, repr(value)
    return tuple(parts), ours_alone


# What every module holds, seen to above: tensors, modules, hooks, its mode; and the workshop.
_OF_EVERY_MODULE = frozenset((*vars(nn.Module()), "workshop"))


# ------------------------------------------------------------------------------------- recording


def replica(learner: Any, tensors: Sequence[Tensor]) -> Any:
    """A copy of a learner with `tensors` as its parameters and buffers."""
    return copy.deepcopy(learner, _in_place_of(learner, tensors))


def _in_place_of(learner: Learned, tensors: Sequence[Tensor]) -> dict[int, Any]:
    return {id(t): new for t, new in zip(tensors_held(learner.modules()), tensors, strict=True)}


def keeps_numbers(learner: Learned) -> bool:
    """Whether tensors or arrays are kept, anywhere, that are neither parameters nor buffers: a
    recording would hold on to the numbers that they have now."""
    own = tensors_held(learner.modules())
    memo = _in_place_of(learner, own)
    copy.deepcopy(learner, memo)
    known = {id(t) for t in own}
    others = [c for c in memo.values() if id(c) not in known]
    return any(hasattr(c, "__array__") and hasattr(c, "__setitem__") for c in others)


def record(learner: Learned, tasks: Task, plan: Plan, own: Sequence[Tensor]) -> Recording | int:
    """`losses_and_gradient` as the list of its operations: they depend on tensors, nothing else.

    Args:
        learner: what is recorded.
        tasks: of the shapes that are played later.
        plan: by which they are worked on.
        own: the parameters and buffers of the learner.

    Returns:
        The recording; `NEVER` where the learner cannot be copied, looks at its tensors' values, or
        keeps tensors that are neither parameters nor buffers.
    """
    try:
        if keeps_numbers(learner):
            return NEVER
    except Exception:  # a lock, an open file: anything may refuse to be copied
        return NEVER

    tensors, form = tree_flatten(tasks)

    def run(*inputs: Tensor) -> list[Any]:
        inside = [
            t.detach().requires_grad_(p.requires_grad) for t, p in zip(inputs, own, strict=False)
        ]
        again = tree_unflatten(list(inputs[len(own) :]), form)
        losses, gradient = losses_and_gradient(replica(learner, inside), again, plan)
        return [losses, *gradient]

    inputs = [t.detach() for t in (*own, *tensors)]
    devices = cuda_devices(inputs[-1].device)
    try:
        with torch.random.fork_rng(devices=devices):  # it runs once, beside the user's draws
            graph = make_fx(run)(*inputs)
            simplify(graph, inputs)
    except (RuntimeError, NotImplementedError):  # a branch on data, a number read from a tensor
        return NEVER
    random = any(map(draws, graph.graph.nodes))
    if learner.options.compile:
        turn_products(graph)
        if devices:
            return Recording(plan, _in_a_cuda_graph(graph), random)
        return Recording(plan, _inductor(graph, inputs), random)
    for node in graph.graph.nodes:
        node.target = DIRECT.get(node.target, node.target)
    graph.recompile()

    def operations(*tensors: Tensor) -> list[Any]:
        with torch.inference_mode():  # no bookkeeping for autograd
            losses, *gradient = graph.forward(*tensors)
        return [losses.clone(), *gradient]

    return Recording(plan, operations, random)


def _in_a_cuda_graph(graph: GraphModule) -> Callable[..., list[Any]]:
    """Compiled for a GPU, and started as one CUDA graph.

    Its results lie where the next start writes its own: what is given away is a copy of them.
    """
    options: dict[str, Any] = {
        "triton.cudagraphs": True,
        "fallback_random": True,  # the same random numbers as without compilation
    }
    compiled: Callable[..., list[Any]] = torch.compile(graph, options=options)

    def operations(*tensors: Tensor) -> list[Any]:
        return [None if t is None else t.clone() for t in compiled(*tensors)]

    return operations


def _inductor(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., list[Any]]:
    """Compiled for a processor: what torch.compile does, without its checks at each call.

    They are not needed: all that they look at is in the key of a recording.
    """
    from torch._inductor import compile  # takes a second, and few need it

    for node in graph.graph.nodes:
        node.meta.clear()  # it describes the tensors of the recording
    options = {
        "cpp_wrapper": True,  # one function in C++, rather than Python that calls many
        "fallback_random": True,  # the same random numbers as without compilation
    }
    return compile(graph, [*inputs], options)
