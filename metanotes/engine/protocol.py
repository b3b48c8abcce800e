"""What the engine asks of a learner. It never names a class of them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple, Protocol, TypedDict

import torch
from torch import Tensor, nn

from metanotes.task import Task


class Options(NamedTuple):
    """How a learner is worked out: never what its losses are.

    Args:
        keep_graph: build one graph of everything, so that the gradient can be differentiated again,
            any number of times. (Normalisations are worked out by their formulas, since torch's own
            batch, instance and layer normalizations have wrong third derivatives.)
        checkpoint: hold k copies of theta and compute each inner step but the last again in the
            backward pass: less memory for more time, as in `torch.utils.checkpoint`.
        record: nothing but tensors changes from now on: after some 200 calls with tasks of one
            shape their operations are recorded, and played back without modules and autograd. It
            pays for small networks and on a GPU. `meta_train` asks for it by itself.
        compile: record, and compile what is recorded by torch's compiler: seconds to minutes once,
            for every shape of the tasks. Convolutions on a CPU are left as they are.
        group: tasks that are worked on at once, at most, at least 1. The gradient is added up over
            the groups, whose graphs are never alive together, so that a large phi, or many tasks,
            fit into memory. Default: on a CPU as many as are fast, on a GPU all. What is done in
            groups is not recorded.

    >>> from metanotes import MAML
    >>> from metanotes.nets import mlp
    >>> MAML(mlp(1, 8, 1), inner_lr=0.1, record=True).options
    Options(keep_graph=False, checkpoint=False, record=True, compile=False, group=None)
    """

    keep_graph: bool = False
    checkpoint: bool = False
    record: bool = False
    compile: bool = False
    group: int | None = None


class Computing(TypedDict, total=False):
    """`Options`, as keyword arguments of every learner.

    >>> Options(**Computing(record=True)).record
    True
    """

    keep_graph: bool
    checkpoint: bool
    record: bool
    compile: bool
    group: int | None


class Workshop:
    """What is kept of the work on a learner: plans, recordings, and for which plans its model
    mixes the examples of a batch.

    It belongs to one learner: a copy of that learner, or one that was saved, has an empty one.

    >>> import copy
    >>> workshop = Workshop()
    >>> workshop.plans["of some shape"] = ...
    >>> copy.deepcopy(workshop).plans
    {}
    """

    def __init__(self) -> None:
        self.plans: dict[Hashable, Any] = {}
        self.recordings: dict[Hashable, Any] = {}
        self.mixing: dict[Hashable, str] = {}  # by plan, how its queries are predicted all the same
        self.asked = 0  # how many loops at present ask for recordings
        self.seen = 0  # how often such a loop had seen tasks before it was interrupted

    def __deepcopy__(self, memo: Any) -> Workshop:
        return Workshop()

    def __reduce__(self) -> tuple[type[Workshop], tuple[()]]:
        return Workshop, ()


class Learned(Protocol):
    """A learner, as the engine sees it.

    Its losses are `query_losses`, plainly written; the rest is looked at before any work.
    `metanotes.Learner` has all of it.

    >>> from metanotes import Learner
    >>> asked = [name for name in vars(Learned) if not name.startswith("_")]
    >>> all(hasattr(Learner, name) for name in asked)
    True
    """

    options: Options
    workshop: Workshop
    training: bool

    def query_losses(self, tasks: Task) -> Tensor:
        """l^n, the loss on the query set after learning from the support set: `[T]`."""
        ...

    def first_look(self, tasks: Task) -> torch.Size:
        """Run the model, plainly, on a single task: the shape of its output for one example.

        What it costs is the measure by which tasks are worked on in groups.
        """
        ...

    def probe(self, tasks: Task) -> list[Tensor]:
        """Numbers that show whether two tasks at once are as each by itself: losses, gradients."""
        ...

    def check(self, tasks: Task, output: torch.Size) -> None:
        """Refuse targets that outputs of this shape cannot be compared with."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...
    def buffers(self) -> Iterator[Tensor]: ...
    def modules(self) -> Iterator[nn.Module]: ...
