"""The meta-step: the losses of all tasks and their gradient, as fast as the machine allows.

    L(phi) = sum_n l^n(phi),    grad L = sum_n grad l^n

`InnerLoopLearner.query_losses` says what l^n is; nothing here does. This module decides how the
sum is worked out, by the size of the work and by the device:

* *Large work on a CPU*: so many tasks at a time that every operation has work for all cores, and
  no more, so that the memory stays bounded.
* *Small work, or a GPU*: there the time goes into Python and the dispatch of operations, not into
  arithmetic. The operations are recorded once and played back, without modules and autograd.

Either way the gradient is computed with the losses, so that no graph outlives its group of tasks,
and `backward` has only to scale it.
"""

from __future__ import annotations

import copy
import ctypes
import os
import platform
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.experimental.proxy_tensor import make_fx

from metanotes._ground.randomness import cuda_devices, random_state, replayed
from metanotes.learner import Learner, cross_entropy, mse
from metanotes.task import Batch, Task

if TYPE_CHECKING:
    from metanotes.inner_loop_learner import InnerLoopLearner

LARGE = 5_000_000  # floating-point operations of a task, from which arithmetic is what it costs
GROUP = 500_000_000  # and of the tasks that are worked on at once, about
KEPT = 16  # recordings of a learner; of more shapes of tasks than that, the first are forgotten

Gradient = list[Tensor | None]


class Recording(NamedTuple):
    """The operations of `losses_and_gradient` for tasks of one shape.

    Args:
        play: does them: a function of the parameters and buffers of the learner and the four
            tensors of a `Task`. It gives the losses, then the gradient.
        random: whether it draws random numbers.
    """

    play: Callable[..., list[Any]]
    random: bool


def replica(learner: InnerLoopLearner, tensors: Sequence[Tensor] | None = None) -> InnerLoopLearner:
    """A copy of a learner with `tensors` as its parameters and buffers, or with the same ones."""
    own = [*learner.parameters(), *learner.buffers()]
    memo = {id(t): new for t, new in zip(own, own if tensors is None else tensors, strict=True)}
    return copy.deepcopy(learner, memo)


# ----------------------------------------------------------------------------- groups of tasks


def is_large(learner: InnerLoopLearner, tasks: Task) -> bool:
    """Whether arithmetic is what a task costs, on a CPU."""
    return tasks.support.x.device.type == "cpu" and learner.trial(tasks.support).flops > LARGE


def in_groups(learner: InnerLoopLearner, tasks: Task) -> list[Task]:
    """The tasks, in groups to be worked on one after the other."""
    if not is_large(learner, tasks):
        return [tasks]
    keep_freed_memory()
    most = GROUP // 2 if learner.checkpoint else GROUP
    size = max(1, most // learner.trial(tasks.support).flops)
    parts = -(-len(tasks.support.x) // size)
    split = [[t.tensor_split(parts) for t in batch] for batch in tasks]
    return [Task(*(Batch(x[i], y[i]) for x, y in split)) for i in range(parts)]


@cache
def keep_freed_memory() -> None:
    """Ask glibc to keep large freed blocks for the next step.

    By default it returns them to the system, which clears every page of them again at the next
    step. An allocator that the user has chosen, or set by its own variables, is left alone.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    libc = ctypes.CDLL(None)
    trim_threshold, mmap_threshold = -1, -3  # of <malloc.h>
    libc.mallopt(mmap_threshold, 1 << 30)
    libc.mallopt(trim_threshold, (1 << 31) - 1)


# ----------------------------------------------------------------------------------- recordings


def recording(learner: InnerLoopLearner, tasks: Task, own: list[Tensor]) -> Recording | None:
    """The recording to play for these tasks, if there should be one."""
    if is_large(learner, tasks) or learner.one_by_one(tasks.query.x):
        return None
    if not learner.trial(tasks.support).copies:
        return None
    if learner.checkpoint:  # the random numbers that it draws again cannot be recorded
        return None
    # Who compiles has promised that nothing else matters.
    known = learner.training if learner.compiled else fingerprint(learner)
    if known is None:
        return None
    tensors = [*own, *tasks.support, *tasks.query]
    kind = [(t.shape, t.stride(), t.dtype, t.device, t.requires_grad) for t in tensors]
    key = (known, *kind, *_autocast(tasks), torch.get_num_threads())
    if key not in learner.recordings:
        if len(learner.recordings) == KEPT:
            del learner.recordings[next(iter(learner.recordings))]
        learner.recordings[key] = None
        if not learner.compiled:  # to record takes as long as many steps: not for a single one
            return None
    known = learner.recordings[key]
    if known is None:
        known = learner.recordings[key] = record(learner, tasks, own)
    return known


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
        parts.append(kind)
        for value in vars(module).values():
            if type(value) in PLAIN:
                parts.append(value)
            elif callable(value):  # an activation, or a `forward` put in place of the class's
                if not f"{getattr(value, '__module__', None)}.".startswith("torch."):
                    return None
                parts.append(value)
    return tuple(parts)


def _hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def record(learner: InnerLoopLearner, tasks: Task, own: list[Tensor]) -> Recording:
    """`losses_and_gradient` as the list of its operations: they depend on tensors, nothing else.

    Args:
        learner: what is recorded.
        tasks: of the shapes that are played later.
        own: the parameters and buffers of the learner.
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
    random = any(map(_random, graph.graph.nodes))
    if learner.compiled:
        turn_products(graph)
        if devices:  # in one CUDA graph
            return Recording(torch.compile(graph, mode="reduce-overhead"), random)
        return Recording(_inductor(graph, inputs), random)
    for node in graph.graph.nodes:
        node.target = DIRECT.get(node.target, node.target)
    graph.recompile()

    def play(*tensors: Tensor) -> list[Any]:
        with torch.inference_mode():  # no bookkeeping for autograd
            losses, *gradient = graph.forward(*tensors)
        return [losses.clone(), *gradient]

    return Recording(play, random)


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


FEW = 4096  # numbers at most of a constant that a recording keeps
VIEWS = tuple(
    getattr(torch.ops.aten, name).default for name in ("detach", "view", "_unsafe_view", "expand")
)
# The same functions, but not by way of torch.ops, which takes longer than small tensors do.
DIRECT: dict[Any, Callable[..., Tensor]] = {
    torch.ops.aten.add.Tensor: torch.add,
    torch.ops.aten.mul.Tensor: torch.mul,
    torch.ops.aten.mul.Scalar: torch.mul,
    torch.ops.aten.bmm.default: torch.bmm,
    torch.ops.aten.sum.dim_IntList: torch.sum,
    torch.ops.aten.relu.default: torch.relu,
    torch.ops.aten.transpose.int: torch.transpose,
    torch.ops.aten.view.default: Tensor.view,
    torch.ops.aten.expand.default: Tensor.expand,
}


def simplify(graph: GraphModule, inputs: list[Tensor]) -> None:
    """Leave out of a recording what changes nothing but, perhaps, the sign of a zero.

    That is, views of the shape that they view, sums with zeros and products with 1, whatever has
    been computed before, and what is the same at every run. Autograd and vmap leave about half of a
    small network's operations so.
    """
    aten, layout = torch.ops.aten, {}
    constants: dict[Node, Tensor] = {}
    alike = aten.ones_like.default, aten.zeros_like.default

    class Layouts(Interpreter):
        def run_node(self, n: Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor):
                layout[n] = value.shape, value.stride(), value.dtype
                of_constants = n.all_input_nodes and constants.keys() >= set(n.all_input_nodes)
                if (n.target in alike or (of_constants and not _random(n))) and value.numel() < FEW:
                    constants[n] = value
            return value

    Layouts(graph).run(*inputs)
    nodes = [node for node in graph.graph.nodes if isinstance(node.target, OpOverload)]
    if any(node.target._schema.is_mutable for node in nodes):
        return  # then the order of the operations matters
    seen: dict[Hashable, Node] = {}
    for node in nodes:
        op = node.target
        first: Any = node.args[0] if node.args else None  # what it views, if it is a view
        if _random(node):
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
    for node, value in constants.items():
        if node.users.keys() - constants.keys():
            graph.register_buffer(node.name, value)
            with graph.graph.inserting_before(node):
                node.replace_all_uses_with(graph.graph.get_attr(node.name))
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _random(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def turn_products(graph: GraphModule) -> None:
    """(A B)^T = B^T A^T: compute products, and sums of them, the way round that is asked for.

    Autograd leaves the gradient of a layer's weights transposed. Compiled code that adds tensors,
    some read along rows and some along columns, is not vectorised. A product in the other order may
    round otherwise, so recordings that are not compiled stay as they are.
    """
    aten = torch.ops.aten

    def transpose(of: Node) -> Node:
        node = graph.graph.call_function(aten.transpose.int, (of, 1, 2))
        node.meta["val"] = of.meta["val"].mT
        return node

    def is_transpose(node: Node) -> bool:
        return node.target is aten.transpose.int and node.args[1:] == (1, 2)

    def turns(node: Any) -> bool:
        """Whether the transpose of these matrices, `[T, N, M]`, is to be had without one."""
        if not isinstance(node, Node) or "val" not in node.meta or node.meta["val"].ndim != 3:
            return False
        if is_transpose(node):
            return True
        summed = node.target is aten.add.Tensor and not node.kwargs and all(map(turns, node.args))
        return len(node.users) == 1 and (summed or node.target is aten.bmm.default)

    def turned(node: Any) -> Any:
        if is_transpose(node):
            return node.args[0]
        if node.target is aten.bmm.default:
            parts = [transpose(factor) for factor in reversed(node.args)]
        else:
            parts = [turned(term) for term in node.args]
        new = graph.graph.call_function(node.target, tuple(parts))
        new.meta["val"] = node.meta["val"].mT
        return new

    def turn_one() -> bool:
        for node in graph.graph.nodes:
            if is_transpose(node) and turns(node.args[0]):
                with graph.graph.inserting_before(node):
                    node.replace_all_uses_with(turned(node.args[0]))
                return graph.graph.eliminate_dead_code()  # what is dead would count as a use
        return False

    while turn_one():
        pass
    graph.recompile()


# ------------------------------------------------------------------------------- the meta-step


@contextmanager
def few_threads(learner: InnerLoopLearner, tasks: Task) -> Iterator[None]:
    """Small work in one thread: two would gain little, and lose much where a core is busy."""
    threads = torch.get_num_threads()
    if learner.trial(tasks.support).flops * len(tasks.support.x) <= LARGE:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _autocast(tasks: Task) -> tuple[bool, torch.dtype]:
    kind = tasks.support.x.device.type
    return torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)


def losses_and_gradient(
    learner: InnerLoopLearner, tasks: Task, weights: Tensor | None = None
) -> tuple[Tensor, Gradient]:
    """l^n of some tasks, `[T]`, and the gradient of their sum, weighted with `weights` `[T]`."""
    groups = in_groups(learner, tasks)
    shares: Sequence[Tensor | None] = [None] * len(groups)
    if weights is not None:
        shares = weights.split([len(group.support.x) for group in groups])
    results = [_of_group(learner, *work) for work in zip(groups, shares, strict=True)]
    if len(results) == 1:
        return results[0]
    losses, gradients = zip(*results, strict=True)
    total: Gradient = [
        None if parts[0] is None else sum(parts[1:], start=parts[0])
        for parts in zip(*gradients, strict=True)
    ]
    return torch.cat(losses), total


def _of_group(
    learner: InnerLoopLearner, tasks: Task, weights: Tensor | None
) -> tuple[Tensor, Gradient]:
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
        ctx.random = ()
        ctx.save_for_backward(*phi)
        with nullcontext() if learner.compiled else few_threads(learner, tasks):
            known = recording(learner, tasks, own)
            if known is None or known.random:
                ctx.random = random_state(tasks.support.x.device)
            if known is None:
                losses, ctx.gradient = losses_and_gradient(learner, tasks)
            else:
                losses, *ctx.gradient = known.play(*own, *tasks.support, *tasks.query)
        return losses

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        phi = ctx.saved_tensors  # an error, where phi has been changed in place since
        each = weights.tolist()
        if len(set(each)) == 1:  # the mean or the sum, nearly always
            scaled = iter(torch._foreach_mul([g for g in ctx.gradient if g is not None], each[0]))
            gradient = [None if g is None else next(scaled) for g in ctx.gradient]
        else:
            with replayed(ctx.random, weights.device) if ctx.random else nullcontext():
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
