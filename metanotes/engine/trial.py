"""A trial: what `probe` gives for two tasks, one by one and in a faster way, and whether it agrees.

Whatever a trial does to the learner is undone (`left_as_it_was`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from metanotes._ground.nodes import nodes_of
from metanotes._ground.precision import in_full
from metanotes.engine.normalizations import FORMULAS
from metanotes.engine.protocol import Learned
from metanotes.engine.working import working
from metanotes.task import Task, map_tensors, tensors_of
from metanotes.theta.task_axis import ONE_BY_ONE


def two_of(tasks: Task) -> Task:
    """Two tasks to try things on: the first two, or the first one twice, as they lie in memory."""

    def two(t: Tensor) -> Tensor:
        first = t.detach()[:2]
        both = first.clone() if len(first) == 2 else torch.cat([first, first])
        return both.requires_grad_(t.requires_grad)

    return map_tensors(two, tasks)


def uneven(tasks: Task, seed: int) -> Task:
    """With a little noise on real inputs, so that nothing hangs on equal numbers."""

    def noisy(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)).to(x)
        noisy = x.detach().clone().add_(0.1 * (x.detach().abs().mean() + 1e-3) * noise)
        return noisy.requires_grad_(x.requires_grad)

    return Task(*(batch._replace(x=map_tensors(noisy, batch.x)) for batch in tasks))


class Plain(NamedTuple):
    """What is right, and what a model is made of that matters to the engine.

    Args:
        numbers: of `probe`, one task by one.
        plain_attention: torch's fast attention can neither be differentiated twice nor batched by
            vmap, and there is some.
        normalizes: torch's normalisations can be differentiated twice only, and there is one.
        normalizes_groups: torch's group normalization, with channels last, fails under vmap, and on
            a CPU it ends the process where nothing but its weights requires a gradient (torch
            2.13).
    """

    numbers: list[Tensor]
    plain_attention: bool
    normalizes: bool
    normalizes_groups: bool


def plainly(learner: Learned, two: Task) -> Plain:
    """The numbers of two tasks, by ordinary calls.

    Raises:
        ValueError: a normalisation over a batch of one example; and whatever the model raises.
    """
    still = Still(at_once=False)
    try:
        with working(ONE_BY_ONE), still:
            numbers = learner.probe(two)
        return Plain(numbers, still.attention, still.normalizes, still.group_norm)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            f"batch normalization got a single example, in an inner step or a query set ({error}): "
            "give it more examples at a time (shots, queries, or batch= where the learner takes "
            "one), or use nn.GroupNorm or nn.LayerNorm"
        ) from error
    except (RuntimeError, NotImplementedError) as error:
        try:
            with working(ONE_BY_ONE, plain_attention=True), still:
                numbers = learner.probe(two)
            return Plain(numbers, True, still.normalizes, still.group_norm)
        except (RuntimeError, NotImplementedError):
            raise error from None


class Trial:
    """Two tasks, and what is right for them; with one noise, or, where it is asked for, another.

    Rounding alone decides on which side of a kink a number falls that is close to it, the largest
    of a max-pooling's, say, and a way that is right may differ from what is right in one draw in
    ten. A way that is wrong does so in each.
    """

    DRAWS = 3

    def __init__(self, learner: Learned, tasks: Task) -> None:
        self.learner, self.device = learner, tensors_of(tasks)[0].device
        try:
            noisy = uneven(tasks, 0)
            self.draws = [(noisy, plainly(learner, noisy))]
            self.tasks: Task | None = tasks
        except Exception:  # real numbers that are indices, or that the model checks
            self.draws, self.tasks = [(tasks, plainly(learner, tasks))], None
        self.in_full = in_full_too(learner, tasks, self.device)

    @property
    def plain(self) -> Plain:
        """What is right, of the first draw."""
        return self.draws[0][1]

    def agrees(self, at_work: Callable[[], AbstractContextManager[None]], at_once: bool) -> bool:
        """Whether the numbers at work in some way are right.

        Under automatic casts rounding alone moves a second derivative by more than a fault might:
        the numbers are compared without them, and under them the losses.
        """
        if self.in_full is not None:
            with in_full(self.device):
                if not self.in_full.agrees(at_work, at_once):
                    return False
            two, plain = self.draws[0]
            numbers = numbers_of(self.learner, two, at_work(), at_once)
            return numbers is not None and alike(numbers[:1], plain.numbers[:1])
        for seed in range(self.DRAWS if self.tasks else 1):
            if seed == len(self.draws) and self.tasks:
                noisy = uneven(self.tasks, seed)
                self.draws.append((noisy, plainly(self.learner, noisy)))
            two, plain = self.draws[seed]
            numbers = numbers_of(self.learner, two, at_work(), at_once)
            if numbers is None or keeps_batched(self.learner):
                return False
            if alike(numbers, plain.numbers):
                return True
        return False


def in_full_too(learner: Learned, tasks: Task, device: torch.device) -> Trial | None:
    """Where automatic casts are in force, the same trial without them, if the model can do so."""
    if not torch.is_autocast_enabled(device.type):
        return None
    try:
        with in_full(device):
            return Trial(learner, tasks)
    except (RuntimeError, ValueError, TypeError):  # numbers of two types, which need the casts
        return None


def numbers_of(
    learner: Learned, two: Task, at_work: AbstractContextManager[None], at_once: bool
) -> list[Tensor] | None:
    """What `probe` gives at work, or None where the model or torch cannot be worked so."""
    try:
        with slow_rules_refused(), at_work, Still(at_once):
            return learner.probe(two)
    except Exception:  # whatever the model makes of inputs of another form
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


def alike(tried: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
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

RELU = frozenset((F.relu, torch.relu, Tensor.relu))

ATTENTION = frozenset(
    (
        F.scaled_dot_product_attention,
        F.multi_head_attention_forward,
        torch._native_multi_head_attention,
        torch._transformer_encoder_layer_fwd,
    )
)


class Still(TorchFunctionMode):
    """No dropout, and a smooth function for a ReLU that makes a tensor of its own, so that what is
    worked out twice can be compared; and no known fault.

    Args:
        at_once: refuse what vmap is known to get wrong for some tokens, which those of two tasks
            need not show: an embedding's `padding_idx`, `max_norm` and `scale_grad_by_freq`.

    >>> with Still(at_once=False):
    ...     print(F.dropout(torch.ones(3), p=0.9))
    tensor([1., 1., 1.])
    """

    def __init__(self, at_once: bool) -> None:
        super().__init__()
        self.at_once = at_once
        # Whether there was any.
        self.attention = self.normalizes = self.group_norm = False

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
        if func in FORMULAS:
            self.normalizes |= FORMULAS[func](*args, **kwargs) is not None
        if func in DROPOUT:
            return args[0] if args else kwargs["input"]
        if func in RELU and len(args) == 1 and not kwargs.get("inplace"):
            return F.silu(args[0])
        if self.at_once and func is F.embedding:
            settings = (*args[2:4], kwargs.get("padding_idx"), kwargs.get("max_norm"))
            by_frequency = kwargs.get("scale_grad_by_freq") or any(args[5:6])
            if by_frequency or any(setting is not None for setting in settings):
                raise NotImplementedError("vmap takes such a setting for all tasks together")
        return func(*args, **kwargs)


# ------------------------------------------------------------------------ what else is found out


def graph_of(learner: Learned, one: Task, plain_attention: bool) -> list[Any]:
    """The nodes of the graph of a task's losses."""
    with torch.enable_grad(), working(ONE_BY_ONE, plain_attention=plain_attention):
        return nodes_of([learner.query_losses(one)])


def depends_on_others(learner: Learned, graph: list[Any]) -> bool:
    """Whether the losses depend on tensors that require a gradient and are not the learner's."""
    own = {id(p) for p in learner.parameters()}
    ends = (getattr(node, "variable", None) for node in graph)
    return any(end is not None and id(end) not in own for end in ends)


def right_only_once(graph: list[Any]) -> bool:
    """Whether there is a derivative of a derivative of a normalisation of torch's, whose own
    derivative is wrong (`normalizations`)."""
    return any(
        name in node.name()
        for node in graph
        for name in ("BatchNormBackwardBackward", "LayerNormBackwardBackward")
    )


def keeps_batched(learner: Learned) -> bool:
    """Whether a module has kept a tensor of vmap's, which is of no use outside of it."""
    held = (
        value
        for module in learner.modules()
        for value in (*vars(module).values(), *module._buffers.values())
    )
    return any(isinstance(value, Tensor) and is_batchedtensor(value) for value in held)


@contextmanager
def left_as_it_was(learner: Learned) -> Iterator[None]:
    """What modules keep of a forward pass, in buffers or in Python, is put back."""
    attributes = [
        (kept, dict(kept))
        for module in learner.modules()
        for kept in (vars(module), module._buffers, module._parameters)
    ]
    buffers = [(b, b.detach().clone()) for b in learner.buffers()]
    try:
        yield
    finally:
        for now, before in attributes:
            now.clear()
            now.update(before)
        for buffer, value in buffers:
            if not torch.equal(buffer, value):  # F.batch_norm writes without a new version
                with torch.no_grad():
                    buffer.copy_(value)
