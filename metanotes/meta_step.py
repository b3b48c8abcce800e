"""The meta-step: the losses of all tasks and their gradient, as fast as the machine allows.

    L(phi) = sum_n l^n(phi),    grad L = sum_n grad l^n

`InnerLoopLearner.query_losses` says what l^n is; nothing here does. This module decides how the
sum is worked out, by the size of the work and by the device:

* *Large work on a CPU*: a few tasks at a time, side by side, each group on a core of its own.
* *Small work, or a GPU*: there the time goes into Python and the dispatch of operations, not into
  arithmetic. The operations are recorded once and played back, without modules and autograd.

Either way the gradient is computed with the losses, so that no graph outlives its group, and
`backward` has only to scale it.
"""

from __future__ import annotations

import copy
import ctypes
import os
import platform
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.experimental.proxy_tensor import make_fx

from metanotes.learner import Learner, cross_entropy, mse
from metanotes.randomness import cuda_devices, random_state, replayed
from metanotes.task import Batch, Task

if TYPE_CHECKING:
    from metanotes.inner_loop_learner import InnerLoopLearner

LARGE = 5_000_000  # floating-point operations of a task, from which arithmetic is what it costs
KEPT = 16  # recordings of a learner; of more shapes of tasks than that, the first are forgotten
GROUP = 8  # tasks worked on at once on one core, at most: enough to batch, few enough for its cache
GROUP_WORK = 250_000_000  # and no more of these than a group's forward pass has

Gradient = list[Tensor | None]
Recording = Callable[..., list[Any]]
Work = Callable[[Any, Task], Any]  # of a learner and a group of tasks


def replica(learner: InnerLoopLearner, tensors: Sequence[Tensor] | None = None) -> InnerLoopLearner:
    """A copy of a learner with its own modules, but the same parameters and buffers (or `tensors`).

    Two threads may not call one module: `functional_call` exchanges its parameters for a moment.
    """
    own = [*learner.parameters(), *learner.buffers()]
    memo = {id(t): new for t, new in zip(own, own if tensors is None else tensors, strict=True)}
    return copy.deepcopy(learner, memo)


# ------------------------------------------------------------------------ groups, side by side


def side_by_side(learner: InnerLoopLearner, tasks: Task, work: Work) -> list[Any]:
    """`work(learner, group)` for groups of the tasks, a core each; the results in order.

    All threads on one operation after the other would wait for each other at every one of them.
    Each group has a replica of the learner: what a module writes into itself is lost with it.
    """
    count, threads = len(tasks.support.x), torch.get_num_threads()
    size = max(1, min(GROUP, GROUP_WORK // learner.trial(tasks.support).flops))
    size = -(-size // 2) if learner.checkpoint else size
    parts = min(count, threads * -(-count // (size * threads)))
    split = [[t.tensor_split(parts) for t in batch] for batch in tasks]
    groups = [Task(*(Batch(x[i], y[i]) for x, y in split)) for i in range(parts)]
    keep_freed_memory()
    if threads == 1 or parts == 1:
        return [work(learner, group) for group in groups]
    grad_enabled = torch.is_grad_enabled()  # each thread has its own

    def run(own: InnerLoopLearner, group: Task) -> Any:
        with torch.set_grad_enabled(grad_enabled):
            return work(own, group)

    replicas = [replica(learner) for _ in groups]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(run, replicas, groups))
    finally:
        torch.set_num_threads(threads)  # threads to come ask for the number that was set last


@cache
def keep_freed_memory() -> None:
    """Ask glibc to keep large freed blocks for the next step.

    By default it returns them to the system, which clears every page of them again at the next
    step. An allocator that the user has chosen, or set by its own variables, is left alone.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    libc = ctypes.CDLL(None)
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8  # of <malloc.h>
    libc.mallopt(mmap_threshold, 1 << 30)
    libc.mallopt(trim_threshold, (1 << 31) - 1)
    libc.mallopt(arena_max, 1)  # threads of one step take up what those of the last one freed


# ----------------------------------------------------------------------------------- recordings


def recording(learner: InnerLoopLearner, tasks: Task, own: list[Tensor]) -> Recording | None:
    """The recording to play for these tasks, if there should be one."""
    copies = learner.trial(tasks.support).copies
    if is_large(learner, tasks) or learner.one_by_one(tasks.query.x) or not copies:
        return None
    if learner.checkpoint:  # the random numbers that it draws again cannot be recorded
        return None
    # Who compiles has promised that nothing else matters.
    known = learner.training if learner.compiled else fingerprint(learner)
    if known is None:
        return None
    tensors = [*own, *tasks.support, *tasks.query]
    kind = [(t.shape, t.dtype, t.device, t.requires_grad) for t in tensors]
    key = (known, *kind, *_autocast(tasks))
    if key not in learner.recordings:
        if len(learner.recordings) == KEPT:
            del learner.recordings[next(iter(learner.recordings))]
        learner.recordings[key] = None
        if not learner.compiled:  # to record takes as long as many steps: not for a single one
            return None
    play = learner.recordings[key]
    if play is None:
        play = learner.recordings[key] = record(learner, tasks, own)
    return play


PLAIN = frozenset((bool, int, float, str, tuple, torch.Size, type(None)))


def fingerprint(learner: Learner) -> Hashable:
    """What the operations of a learner depend on beside its tensors; None if nobody can know it.

    The modules of `torch.nn` and of metanotes do what their settings say. A reader's own may look
    at whatever it likes, from one call to the next.
    """
    if learner.loss not in (cross_entropy, mse):
        return None
    parts: list[Any] = [learner.loss]
    for module in learner.modules():
        kind = type(module)
        if _hooked(module) or not kind.__module__.startswith(("torch.nn.modules.", "metanotes.")):
            return None
        values = vars(module).values()
        functions = [value for value in values if isinstance(value, FunctionType)]
        if any(not function.__module__.startswith("torch.") for function in functions):
            return None
        parts += [kind, *functions, *(value for value in values if type(value) in PLAIN)]
    return tuple(parts)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def record(learner: InnerLoopLearner, tasks: Task, own: list[Tensor]) -> Recording:
    """`losses_and_gradient` as the list of its operations: a function of tensors and nothing else.

    Args:
        learner: what is recorded.
        tasks: of the shapes that are played later.
        own: the parameters and buffers of the learner.

    Returns:
        a function of those and the four tensors of a `Task`: the losses, then the gradient.
    """

    def run(*tensors: Tensor) -> list[Any]:
        inside = [
            t.detach().requires_grad_(p.requires_grad) for t, p in zip(tensors, own, strict=False)
        ]
        sx, sy, qx, qy = tensors[-4:]
        losses, gradient = losses_and_gradient(
            replica(learner, inside), Task(Batch(sx, sy), Batch(qx, qy))
        )
        return [losses, *gradient]

    inputs = [t.detach() for t in (*own, *tasks.support, *tasks.query)]
    devices = cuda_devices(tasks.support.x.device)
    with torch.random.fork_rng(devices=devices):  # recording runs it once, beside the user's draws
        graph = make_fx(run)(*inputs)
        simplify(graph, inputs)
    if learner.compiled:  # on a GPU in one CUDA graph
        return torch.compile(graph, mode="reduce-overhead" if devices else None)

    def play(*tensors: Tensor) -> list[Any]:
        with torch.inference_mode():  # no bookkeeping for autograd
            losses, *gradient = graph.forward(*tensors)
        return [losses.clone(), *gradient]

    return play


VIEWS = tuple(
    getattr(torch.ops.aten, name).default for name in ("detach", "view", "_unsafe_view", "expand")
)


def simplify(graph: GraphModule, inputs: list[Tensor]) -> None:
    """Leave out of a recording what changes nothing but, perhaps, the sign of a zero.

    That is, views of the shape that they view, sums with zeros and products with 1, and whatever
    has been computed before. Autograd and vmap leave about half of a small network's operations so.
    """
    aten, layout = torch.ops.aten, {}

    class Layouts(Interpreter):
        def run_node(self, n: Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor):
                layout[n] = value.shape, value.stride(), value.dtype
            return value

    Layouts(graph).run(*inputs)
    nodes = [node for node in graph.graph.nodes if isinstance(node.target, OpOverload)]
    if any(node.target._schema.is_mutable for node in nodes):
        return  # then the order of the operations matters
    seen: dict[Hashable, Node] = {}
    for node in nodes:
        op = node.target
        first: Any = node.args[0] if node.args else None  # what it views, if it is a view
        if torch.Tag.nondeterministic_seeded in op.tags:
            continue
        key = op, str(node.args), str(node.kwargs)
        same = seen.get(key)
        if same is not None:
            pass
        elif op in VIEWS and layout[first] == layout[node]:
            same = first
        elif op is aten.transpose.int and first.target is op and first.args[1:] == node.args[1:]:
            same = first.args[0]
        elif op is aten.mul.Scalar and node.args[1] == 1 and layout[first] == layout[node]:
            same = first
        elif op is aten.add.Tensor and first.target is aten.zeros_like.default:
            same = node.args[1] if layout[node.args[1]] == layout[node] else None
        if same is None:
            seen[key] = node
        else:
            node.replace_all_uses_with(same)
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()


# ------------------------------------------------------------------------------- the meta-step


def is_large(learner: InnerLoopLearner, tasks: Task) -> bool:
    """Whether to work side by side: on a CPU, where nothing depends on the order of the tasks."""
    trial = learner.trial(tasks.support)
    ordered = trial.random or not trial.copies or any(map(_hooked, learner.modules()))
    cpu = tasks.support.x.device.type == "cpu" and not _autocast(tasks)[0]
    return cpu and trial.flops > LARGE and not ordered


def _autocast(tasks: Task) -> tuple[bool, torch.dtype]:
    kind = tasks.support.x.device.type
    return torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)


def losses_and_gradient(
    learner: InnerLoopLearner, tasks: Task, weights: Tensor | None = None
) -> tuple[Tensor, Gradient]:
    """l^n of some tasks, `[T]`, and the gradient of their sum, weighted with `weights` `[T]`."""
    phi = [p for p in learner.parameters() if p.requires_grad]
    with torch.enable_grad():
        losses = learner.query_losses(tasks)
        total = (losses if weights is None else weights * losses).sum()
        gradient = torch.autograd.grad(total, phi, allow_unused=True)
    return losses.detach(), list(gradient)


def meta_step(learner: InnerLoopLearner, tasks: Task) -> Tensor:
    """`learner.query_losses(tasks)`, `[T]`, its gradient worked out as fast as we know."""
    own = [*learner.parameters(), *learner.buffers()]
    return _MetaStep.apply(learner, tasks, own, *(t for t in own if t.requires_grad))


class _MetaStep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, learner: InnerLoopLearner, tasks: Task, own: list[Tensor], *phi: Tensor
    ) -> Tensor:
        ctx.learner, ctx.tasks, ctx.own = learner, tasks, own
        ctx.random = random_state(tasks.support.x.device)
        ctx.save_for_backward(*phi)
        play = recording(learner, tasks, own)
        if play is not None:
            tensors = (t.detach() for t in (*own, *tasks.support, *tasks.query))
            losses, *ctx.gradient = play(*tensors)
            return losses
        if not is_large(learner, tasks):
            losses, ctx.gradient = losses_and_gradient(learner, tasks)
            return losses
        groups = side_by_side(learner, tasks, losses_and_gradient)
        ctx.gradient = [
            None if parts[0] is None else sum(parts[1:], start=parts[0])
            for parts in zip(*(gradient for _, gradient in groups), strict=True)
        ]
        return torch.cat([losses for losses, _ in groups])

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        phi = ctx.saved_tensors  # an error, where phi has been changed in place since
        each = weights.tolist()
        if len(set(each)) == 1:  # the mean or the sum, nearly always
            gradient = [None if g is None else g * each[0] for g in ctx.gradient]
        else:
            with replayed(ctx.random, weights.device):
                learner = replica(ctx.learner, ctx.own)
                gradient = losses_and_gradient(learner, ctx.tasks, weights)[1]
        if torch.is_grad_enabled():  # somebody means to differentiate the gradient
            gradient = [None if g is None else _OnlyOnce.apply(g, *phi) for g in gradient]
        return None, None, None, *gradient


class _OnlyOnce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *phi: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> None:
        raise RuntimeError(
            "the meta-gradient can be differentiated only where its graph is kept: make the "
            "learner with keep_graph=True"
        )
