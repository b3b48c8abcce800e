"""Learning from a stream: each step sees the next few examples and no others.

    theta_{t+1} = theta_t + rule(grad l(theta_t; B_t)),    t = 0, 1, ...                      (1)
    B_t = the t-th examples of the stream, and with replay some of those before               (2)

The support set of a task is the stream, in its order. `metanotes.data.episodes` sorts it by class,
and calls the classes 0, 1, ... in random order: class after class arrives, each once. (1) is
ordinary descent, and the steps for a new class are free to undo what an old one has taught, which
is known as catastrophic forgetting (McCloskey and Cohen 1989). Replay (2) is the oldest remedy: it
keeps what has been seen, and mixes some of it with what is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from metanotes._ground.checks import count
from metanotes.inner_loop_learner import InnerLoopLearner, Settings
from metanotes.learner import Learner
from metanotes.task import Batch, Task, check_tasks, in_parts, select
from metanotes.theta.parameters import Theta
from metanotes.update_rules import UpdateRule


class StreamLearner(InnerLoopLearner):
    """Descends on the support set in its order, a few examples a step, each of them once.

    On the map:
        phi: where all weights start
        adapts: all weights, a few examples a step
        outer loss: of all classes of a stream, after it
        needs: second derivatives, or first_order=True

    Args:
        model: any module; where it starts is phi. See `InnerLoopLearner`.
        rule: makes a step of a gradient.
        replay: examples of earlier steps that a step sees beside, drawn with replacement from all
            of them, from torch's global generator. The first step, before which there is nothing,
            draws from its own.
        loss, first_order, adapts: see `InnerLoopLearner`.
        batch: new examples of a step, default 1; the stream is a multiple of them.
        keep_graph, checkpoint, record, compile, group: see `metanotes.engine.Options`.

    Raises:
        ValueError: as of `InnerLoopLearner`; in use, a stream that is no multiple of `batch`.

    >>> from metanotes import SGD, StreamLearner
    >>> from metanotes.data import episodes, glyphs
    >>> from metanotes.nets import mlp
    >>> stream = episodes(glyphs("background"), ways=10, shots=3, queries=2)(4)   # class by class
    >>> learner = StreamLearner(nn.Sequential(nn.Flatten(), mlp(784, 32, 10)), SGD(lr=0.1))
    >>> learner.predict(learner.adapt(stream.support), stream.query.x).shape      # after 30 steps
    torch.Size([4, 20, 10])
    """

    def __init__(
        self, model: nn.Module, rule: UpdateRule, *, replay: int = 0, **settings: Unpack[Settings]
    ) -> None:
        batch, replay = settings.get("batch"), count("replay", replay, least=0)
        new = 1 if batch is None else count("batch", batch)
        settings["batch"] = new + replay
        super().__init__(model, rule, **settings)
        self.new, self.replay = new, replay

    def adapt(self, support: Batch, steps: int | None = None) -> Theta:
        """theta by name, tensors `[T, ...]`, at the end of the stream; or after so many steps."""
        return super().adapt(support, self.stream_steps(support) if steps is None else steps)

    def forward(self, tasks: Task) -> Tensor:
        """The loss on the query set at the end of the stream: `[T]`."""
        check_tasks(tasks)
        # Drawn once: however the tasks are grouped, and when work is done a second time.
        return Learner.forward(self, Task(self.with_replay(tasks.support), tasks.query))

    def query_losses(self, tasks: Task) -> Tensor:
        """`forward`, plainly written; the stream has its replayed examples already."""
        batches = self.in_turn(tasks.support)
        return self.losses_at(self.descend(batches, len(batches)), tasks.query)

    def stream_steps(self, support: Batch) -> int:
        """The steps of a stream.

        Raises:
            ValueError: it is no multiple of the examples of a step.
        """
        examples = support.y.shape[1]
        if examples % self.new:
            raise ValueError(
                f"a stream of {examples} examples is no multiple of batch={self.new}: the last "
                "step would see fewer"
            )
        return examples // self.new

    def with_replay(self, support: Batch) -> Batch:
        """What each step sees, one step after the other: `[T, steps * (batch + replay), ...]`."""
        (T, N), steps = support.y.shape, self.stream_steps(support)
        new = torch.arange(N).view(1, steps, self.new).expand(T, -1, -1)
        before = (torch.arange(steps) * self.new).clamp(min=self.new)[:, None]  # how many to choose
        earlier = (torch.rand(T, steps, self.replay) * before).long().minimum(before - 1)
        rows = torch.cat([new, earlier], 2).flatten(1).to(support.y.device)
        return select(support, (torch.arange(T, device=rows.device)[:, None], rows))

    def minibatches(self, support: Batch, steps: int) -> Sequence[Batch]:
        """What the steps see in turn; of more steps than the stream has, it comes once more."""
        return in_parts(self.with_replay(support), self.new + self.replay)
