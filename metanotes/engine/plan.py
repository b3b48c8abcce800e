"""A plan: how the tasks of one shape are worked on, found out once and never changed.

What is batched is checked against what is not. At the first sight of a model, a shape, a type and
a mode, the numbers that `probe` gives for two tasks are worked out one by one, by ordinary calls,
and then in each faster way. The first way that agrees is taken; where none does, one by one it is.
So a fault of torch's under `vmap`, whatever it is next, costs time and no truth.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor
from torch.nn import Embedding
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from metanotes._ground.randomness import cuda_devices
from metanotes.engine.protocol import Learned, Options
from metanotes.engine.task_layers import TaskLayers
from metanotes.task import Task, map_tensors, select, task_count
from metanotes.theta import ONE_BY_ONE, How, in_force

LARGE = 5_000_000  # floating-point operations of a task, from which arithmetic is what it costs
GROUP = 500_000_000  # and of the tasks that are worked on at once, about
KEPT = 256  # plans of a learner; of more shapes than that, the first are forgotten


class Plan(NamedTuple):
    """How the tasks of one shape are worked on.

    Args:
        how: at once or one by one, and with which layers.
        output: the shape of the model's output for one example.
        flops: floating-point operations of a task, by `first_look`.
        group: tasks that are worked on at once, at most.
        plain_attention: attention by ordinary products, which alone can be differentiated twice.
        outside: whether the losses depend on something that is learned and is not the learner's.

    >>> from metanotes import MAML
    >>> from metanotes.data import episodes, glyphs
    >>> from metanotes.nets import conv4
    >>> tasks = episodes(glyphs("evaluation"), ways=5, shots=1, queries=15, seed=0)(64)
    >>> plan = plan_for(MAML(conv4(ways=5), inner_lr=0.4), tasks)
    >>> plan.output, plan.how.at_once, len(plan.groups(tasks)) > 1
    (torch.Size([5]), True, True)
    """

    how: How
    output: torch.Size
    flops: int
    group: int
    plain_attention: bool
    outside: bool

    @contextmanager
    def at_work(self, **changes: Any) -> Iterator[None]:
        """The plan is in force; with changes of its `how`, if any."""
        with working(self.how._replace(**changes) if changes else self.how, self.plain_attention):
            yield

    def groups(self, tasks: Task) -> list[Task]:
        """The tasks, in groups to be worked on one after the other."""
        parts = -(-task_count(tasks) // self.group)
        if parts == 1:
            return [tasks]
        numbers = torch.arange(task_count(tasks)).tensor_split(parts)
        return [select(tasks, slice(int(n[0]), int(n[-1]) + 1)) for n in numbers]


@contextmanager
def working(how: How, plain_attention: bool) -> Iterator[None]:
    """Functions of one task are applied to all in this way."""
    if not plain_attention:
        with in_force(how):
            yield
        return
    with _plain_attention(), in_force(how):
        yield


class _Attention:
    """How many want attention by ordinary products at present, and what torch did before."""

    lock = Lock()
    inside = 0
    before: tuple[bool, ...] = ()


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention by ordinary products. torch keeps the choice for the whole process, and others may
    be at work: the last one out puts back what the first one saw."""
    cuda, mha = torch.backends.cuda, torch.backends.mha
    setters: tuple[Callable[[bool], Any], ...] = (
        cuda.enable_flash_sdp,
        cuda.enable_mem_efficient_sdp,
        cuda.enable_cudnn_sdp,
        cuda.enable_math_sdp,
        mha.set_fastpath_enabled,
    )
    with _Attention.lock:
        if _Attention.inside == 0:
            _Attention.before = (
                cuda.flash_sdp_enabled(),
                cuda.mem_efficient_sdp_enabled(),
                cuda.cudnn_sdp_enabled(),
                cuda.math_sdp_enabled(),
                mha.get_fastpath_enabled(),
            )
            for setter in setters:
                setter(setter is cuda.enable_math_sdp)
        _Attention.inside += 1
    try:
        yield
    finally:
        with _Attention.lock:
            _Attention.inside -= 1
            if _Attention.inside == 0:
                for setter, enabled in zip(setters, _Attention.before, strict=True):
                    setter(enabled)


def attention_at_present() -> Callable[[], AbstractContextManager[None]]:
    """What puts the present choice of attention in force again, when work is done anew.

    >>> with working(ONE_BY_ONE, plain_attention=True):
    ...     again = attention_at_present()
    >>> with again():
    ...     torch.backends.cuda.flash_sdp_enabled()
    False
    """
    return _plain_attention if _Attention.inside else nullcontext


def plan_for(learner: Learned, tasks: Task) -> Plan:
    """The plan for tasks of this shape, made at their first sight.

    >>> from metanotes import MAML, mse
    >>> from metanotes.data import sinusoid
    >>> from metanotes.nets import mlp
    >>> learner, tasks = MAML(mlp(1, 8, 1), inner_lr=0.1, loss=mse), sinusoid(seed=0)(4)
    >>> plan_for(learner, tasks) is plan_for(learner, tasks)
    True
    """
    plans = learner.workshop.plans
    key = _key(learner, tasks)
    plan: Plan | None = plans.get(key)
    if plan is None:
        if len(plans) >= KEPT:
            plans.pop(next(iter(plans)), None)
        plan = plans[key] = make_plan(learner, tasks)
    return plan


def _key(learner: Learned, tasks: Task) -> Hashable:
    tensors = tree_leaves(tasks)
    kind = tensors[0].device.type
    return (
        tuple([(type(m), m.training, _kept_from_vmap(m)) for m in learner.modules()]),
        tuple([p.requires_grad for p in learner.parameters()]),
        tuple([(t.shape[1:], t.dtype, t.device) for t in tensors]),
        learner.options,
        # What a trial compares, where a learner has them: second derivatives, how many examples.
        (getattr(learner, "first_order", None), getattr(learner, "batch", None)),
        torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind),
    )


def _kept_from_vmap(module: Any) -> Hashable:
    """Settings of a module that decide whether vmap may have it."""
    return isinstance(module, Embedding) and (module.padding_idx, module.max_norm)


@torch.inference_mode(False)
def make_plan(learner: Learned, tasks: Task) -> Plan:
    """Look at the model, try what is fast on two tasks, and compare.

    Raises:
        ValueError: targets that the outputs cannot be compared with; and whatever the learner and
            its model raise by themselves.
    """
    two = map_tensors(_two, tasks)
    one = select(two, slice(1))
    device = tree_leaves(tasks)[0].device
    with torch.random.fork_rng(devices=cuda_devices(device)), _left_as_it_was(learner):
        two = Task(*(batch._replace(x=map_tensors(_uneven, batch.x)) for batch in two))
        with (
            torch.no_grad(),
            working(ONE_BY_ONE, plain_attention=False),
            FlopCounterMode(display=False) as counter,
        ):
            output = learner.first_look(one)
        learner.check(tasks, output)
        flops = counter.get_total_flops()
        still = Still(at_once=False)
        plain_attention, numbers = _plainly(learner, two, still)
        outside = _outside(learner, one, plain_attention)
        on_cpu = device.type == "cpu"
        group = _group(learner, flops) if on_cpu and flops > LARGE else 1 << 62
        convolves = on_cpu and any(isinstance(m, _ConvNd) for m in learner.modules())
        how = ONE_BY_ONE
        for candidate in _candidates(convolves, group, learner.options):
            # With channels last, torch's group normalization crashes where only weights learn.
            candidate = candidate._replace(
                channels_last=candidate.channels_last and not still.group_norm
            )
            tried = _numbers(learner, two, candidate, plain_attention)
            if tried is not None and _alike(tried, numbers) and not _keeps_batched(learner):
                how = candidate
                break
    if outside:
        how, group = how._replace(apart=False), 1 << 62
    return Plan(how, output, flops, group, plain_attention, outside)


def _two(t: Tensor) -> Tensor:
    """The first two tasks, or the first one twice, as they lie in memory."""
    first = t.detach()[:2]
    return first.clone() if len(first) == 2 else torch.cat([first, first])


def _uneven(x: Tensor) -> Tensor:
    """Real inputs with a little noise: in flat regions, where a ReLU stands between on and off,
    rounding alone would decide what is compared."""
    if not x.is_floating_point():
        return x
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    return x.clone().add_(0.1 * (x.abs().mean() + 1e-3) * noise)


def _group(learner: Learned, flops: int) -> int:
    """Tasks that are worked on at once, where arithmetic is what they cost."""
    return max(1, (GROUP // 2 if learner.options.checkpoint else GROUP) // flops)


def _candidates(convolves: bool, group: int, options: Options) -> Sequence[How]:
    """The ways to try, the fastest first."""
    if not convolves:
        return [How(at_once=True)] if group > 1 else []
    by_one = How(channels_last=True)
    if group == 1:
        return [by_one]
    at_once = How(at_once=True, apart=True, channels_last=True)
    if options.keep_graph:  # the layers can be differentiated twice only
        return [at_once._replace(apart=False, channels_last=False), by_one]
    return [at_once._replace(layers=TaskLayers), at_once, by_one]


# --------------------------------------------------------------------------- what is compared


def _plainly(learner: Learned, two: Task, still: Still) -> tuple[bool, list[Tensor]]:
    """Whether attention is to be by ordinary products, and the numbers that are right.

    torch's fast attention can neither be differentiated twice nor batched by vmap.
    """
    try:
        with working(ONE_BY_ONE, False), still:
            numbers = learner.probe(two)
        return still.attention, numbers
    except (RuntimeError, NotImplementedError) as error:
        try:
            with working(ONE_BY_ONE, True), still:
                return True, learner.probe(two)
        except (RuntimeError, NotImplementedError):
            raise error from None


def _numbers(learner: Learned, two: Task, how: How, plain_attention: bool) -> list[Tensor] | None:
    """What `probe` gives in this way, or None where the model or torch cannot be worked so."""
    try:
        with slow_rules_refused(), working(how, plain_attention), Still(how.at_once):
            return learner.probe(two)
    except (RuntimeError, NotImplementedError, ValueError, TypeError, UserWarning):
        return None


@contextmanager
def slow_rules_refused() -> Iterator[None]:
    """An error where vmap lacks a rule and torch loops by itself: no faster than one by one.

    >>> with slow_rules_refused():
    ...     warnings.warn("There is a performance drop because ...")
    Traceback (most recent call last):
    UserWarning: There is a performance drop because ...
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "There is a performance drop")
        yield


def _alike(tried: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    """Whether two lists of numbers agree but for rounding.

    A tensor that is nothing but rounding, as the gradient of a bias before a normalisation, is
    measured by the largest of all.
    """
    kind = right[0].device.type
    coarse = torch.is_autocast_enabled(kind) or right[0].dtype in (torch.bfloat16, torch.float16)
    tolerance = 0.05 if coarse else 1e-8 if right[0].dtype == torch.float64 else 2e-3
    norms = [float(_finite(b).norm()) for b in right]
    most = max(norms)
    return all(
        a.shape == b.shape
        and torch.equal(torch.isfinite(a), torch.isfinite(b))
        and float((_finite(a) - _finite(b)).norm()) <= tolerance * (norm + 1e-3 * most) + 1e-30
        for a, b, norm in zip(tried, right, norms, strict=True)
    )


def _finite(t: Tensor) -> Tensor:
    return t.detach().double().nan_to_num(0.0, 0.0, 0.0)


DROPOUT = frozenset(
    (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)
)

ATTENTION = frozenset(
    (
        F.scaled_dot_product_attention,
        F.multi_head_attention_forward,
        torch._native_multi_head_attention,
        torch._transformer_encoder_layer_fwd,
    )
)


class Still(TorchFunctionMode):
    """No dropout, so that what is worked out twice can be compared; and no known fault.

    Args:
        at_once: refuse what vmap is known to get wrong for some tokens, which those of two tasks
            need not show: an embedding's `padding_idx` and `max_norm`.
    """

    def __init__(self, at_once: bool) -> None:
        super().__init__()
        self.at_once = at_once
        self.attention = self.group_norm = False  # whether there was any

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        self.attention |= func in ATTENTION
        self.group_norm |= func is F.group_norm
        if func in DROPOUT:
            return args[0] if args else kwargs["input"]
        if self.at_once and func is F.embedding:
            settings = (*args[2:4], kwargs.get("padding_idx"), kwargs.get("max_norm"))
            if any(setting is not None for setting in settings):
                raise NotImplementedError("vmap heeds padding_idx in the first task only")
        return func(*args, **kwargs)


# ------------------------------------------------------------------------ what else is found out


def _outside(learner: Learned, one: Task, plain_attention: bool) -> bool:
    """Whether the losses depend on tensors that require a gradient and are not the learner's."""
    own = {id(p) for p in learner.parameters()}
    with torch.enable_grad(), working(ONE_BY_ONE, plain_attention):
        losses = learner.query_losses(one)
    return any(id(leaf) not in own for leaf in graph_leaves(losses))


def graph_leaves(of: Tensor) -> list[Tensor]:
    """The tensors that a graph ends in: those whose gradient `backward` would leave in `.grad`."""
    ends, seen, waiting = [], set(), [of.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            ends.append(variable)
        waiting += [parent for parent, _ in node.next_functions]
    return ends


def _keeps_batched(learner: Learned) -> bool:
    """Whether a module has kept a tensor of vmap's, which is of no use outside of it."""
    held = (value for module in learner.modules() for value in vars(module).values())
    return any(isinstance(value, Tensor) and is_batchedtensor(value) for value in held)


@contextmanager
def _left_as_it_was(learner: Learned) -> Iterator[None]:
    """What modules keep of a forward pass, in buffers or in Python, is put back."""
    attributes = [(vars(module), dict(vars(module))) for module in learner.modules()]
    buffers = [(b, b.detach().clone(), b._version) for b in learner.buffers()]
    try:
        yield
    finally:
        for now, before in attributes:
            now.clear()
            now.update(before)
        for buffer, value, version in buffers:
            if buffer._version != version:
                with torch.no_grad():
                    buffer.copy_(value)
