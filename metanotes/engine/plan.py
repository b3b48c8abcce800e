"""A plan: how the tasks of one shape are worked on, found out once and never changed.

What is batched is checked against what is not. At the first sight of a model, a shape, a type and
a mode, the numbers that `probe` gives for two tasks are worked out one by one, by ordinary calls,
and then in each faster way. The first way that agrees is taken; where none does, one by one it is.
So a fault of torch's under `vmap`, whatever it is next, costs time and no truth.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.nn import Embedding
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode

from metanotes._ground.precision import all_digits
from metanotes._ground.randomness import cuda_devices
from metanotes.engine.protocol import Learned
from metanotes.engine.stacked import Stacked
from metanotes.engine.task_layers import TaskLayers
from metanotes.engine.trial import (
    Trial,
    depends_on_others,
    graph_of,
    left_as_it_was,
    right_only_once,
    two_of,
)
from metanotes.engine.working import working
from metanotes.task import Task, map_tensors, select, task_count, tensors_of
from metanotes.theta import How
from metanotes.theta.task_axis import ONE_BY_ONE

LARGE = 5_000_000  # floating-point operations of a task, from which arithmetic is what it costs
GROUP = 500_000_000  # and of the tasks that are worked on at once, about
ALL = 1 << 62  # tasks at once: however many there are
KEPT = 256  # plans of a learner; of more shapes than that, the first are forgotten


class Plan(NamedTuple):
    """How the tasks of one shape are worked on.

    Args:
        how: at once or one by one, and with which layers.
        output: the shape of the model's output for one example.
        flops: floating-point operations of a task, by `first_look`.
        group: tasks that are worked on at once, at most.
        plain_attention: attention by ordinary products, which alone can be differentiated twice.
        differentiable: normalisations by their formulas, so that a kept graph is right however
            often it is differentiated.
        once: the graph holds normalisations of torch's, so that the gradient of the losses must not
            be differentiated.
        whole: all is one ordinary graph, since it is to be kept, or the losses depend on something
            that is learned and not the learner's, or the tasks themselves carry a graph.

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
    plain_attention: bool = False
    differentiable: bool = False
    once: bool = False
    whole: bool = False

    @contextmanager
    def at_work(self, **changes: Any) -> Iterator[None]:
        """The plan is in force; with changes of its `how`, if any."""
        with working(
            self.how._replace(**changes) if changes else self.how,
            plain_attention=self.plain_attention,
            differentiable=self.differentiable,
        ):
            yield

    def groups(self, tasks: Task) -> list[Task]:
        """The tasks, in groups to be worked on one after the other."""
        parts = -(-task_count(tasks) // self.group)
        if parts == 1:
            return [tasks]
        numbers = torch.arange(task_count(tasks)).tensor_split(parts)
        return [select(tasks, slice(int(n[0]), int(n[-1]) + 1)) for n in numbers]


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
            learner.workshop.mixing.pop(Itself(plans.pop(next(iter(plans)), None)), None)
        plan = plans[key] = make_plan(learner, tasks)
    return plan


def _key(learner: Learned, tasks: Task) -> Hashable:
    tensors = tensors_of(tasks)
    kind = tensors[0].device.type
    modules = list(learner.modules())
    return (
        tuple([(type(m), m.training, _kept_from_vmap(m)) for m in modules]),
        tuple([p.requires_grad for m in modules for p in m._parameters.values() if p is not None]),
        tuple([(t.shape[1:], t.dtype, t.device) for t in tensors]),
        (learner.options, any(t.requires_grad for t in tensors)),
        # What a trial compares, where a learner has them: second derivatives, how many examples,
        # the loss.
        (getattr(learner, "first_order", None), getattr(learner, "batch", None)),
        Itself(getattr(learner, "loss", None)),
        torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind),
    )


class Itself:
    """In a key, a thing that is equal to nothing but itself; held, so that no other can have its
    place in memory.

    >>> Itself(loss := []) == Itself(loss), Itself([]) == Itself([])
    (True, False)
    """

    __slots__ = ("thing",)

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Itself) and self.thing is other.thing

    def __hash__(self) -> int:
        return id(self.thing)


def _kept_from_vmap(module: Any) -> Hashable:
    """Settings of a module that decide whether vmap may have it."""
    return isinstance(module, Embedding) and (
        module.padding_idx,
        module.max_norm,
        module.scale_grad_by_freq,
    )


@torch.inference_mode(False)
def make_plan(learner: Learned, tasks: Task) -> Plan:
    """Look at the model, try what is fast on two tasks, and compare.

    Raises:
        ValueError: targets that the outputs cannot be compared with; and whatever the learner and
            its model raise by themselves.
    """
    two = two_of(tasks)
    one = map_tensors(lambda t: t.detach()[:1], two)
    device = tensors_of(tasks)[0].device
    with (
        torch.random.fork_rng(devices=cuda_devices(device)),
        left_as_it_was(learner),
        all_digits(device),
    ):
        output, flops = first_look(learner, one)
        learner.check(tasks, output)
        trial = Trial(learner, two)
        plain = trial.plain
        graph = graph_of(learner, one, plain.plain_attention)
        whole = (
            learner.options.keep_graph
            or depends_on_others(learner, graph)
            or any(t.requires_grad for t in tensors_of(tasks))
        )
        on_cpu = device.type == "cpu"
        plan = Plan(
            ONE_BY_ONE,
            output,
            flops,
            _group(learner, flops) if on_cpu and flops > LARGE else learner.options.group or ALL,
            plain.plain_attention,
            differentiable=plain.normalizes and learner.options.keep_graph,
            once=right_only_once(graph) and not learner.options.keep_graph,
            whole=whole,
        )
        convolves = on_cpu and any(isinstance(m, _ConvNd) for m in learner.modules())
        for candidate in _candidates(convolves, plan.group, whole):
            if plain.normalizes_groups:
                candidate = candidate._replace(channels_last=False)
            tried = plan._replace(how=candidate)
            if trial.agrees(partial(tried.at_work, on_trial=True), candidate.at_once):
                return tried
    return plan


def first_look(learner: Learned, one: Task) -> tuple[torch.Size, int]:
    """The shape of the learner's output for an example of a task, and its operations.

    The counter's hooks fail where a forward differentiates by itself. Then they are not counted,
    and the tasks are worked on as small ones are.
    """
    with working(ONE_BY_ONE):
        try:
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                return learner.first_look(one), counter.get_total_flops()
        except RuntimeError:
            with torch.enable_grad():
                return learner.first_look(one), 0


def _group(learner: Learned, flops: int) -> int:
    """Tasks that are worked on at once, where arithmetic is what they cost."""
    fast = max(1, (GROUP // 2 if learner.options.checkpoint else GROUP) // flops)
    return min(fast, learner.options.group or fast)


def _candidates(convolves: bool, group: int, whole: bool) -> Sequence[How]:
    """The ways to try, the fastest first; `whole` where all has to be one ordinary graph."""
    if not convolves:
        return [How(at_once=True, stacked=Stacked), How(at_once=True)] if group > 1 else []
    by_one = How(channels_last=True)
    if group == 1:
        return [by_one]
    at_once = How(at_once=True, apart=True, channels_last=True)
    if whole:  # the layers can be differentiated twice only
        return [at_once._replace(apart=False, channels_last=False), by_one]
    return [at_once._replace(layers=TaskLayers), at_once, by_one]
