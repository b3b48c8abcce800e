"""`metanotes.evaluate` beside a loop over the tasks, in both of its forms.

All queries at once (transductive), or each alone beside the support set. For a model that does not
mix the examples of a batch the two are one function, and the plain loop works it out at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle, islice

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, silu

from benchmarks.measure import OURS, REFERENCE, Step, Workload
from benchmarks.meta_step import MetaStep, images, moved_to, plural
from metanotes import ANIL, MAML, Batch, Learner, Task, evaluate
from metanotes.nets import conv4

WAYS = 5  # classes of a task
DRAWN = 25  # different tasks, which come again and again
TASKS = 10  # that are evaluated
Forward = Callable[[Tensor], Tensor]


class Rows(nn.Module):
    """What two layers of a transformer make of the 28 rows of an image: `[N, F]`.

    An odd number of heads keeps it off torch's kernel for inference alone, which cannot be batched.
    """

    def __init__(self, features: int = 48, heads: int = 3) -> None:
        super().__init__()
        self.embed = nn.Linear(28, features)
        self.position = nn.Parameter(0.02 * torch.randn(28, features))
        layers = (
            nn.TransformerEncoderLayer(
                features, heads, 2 * features, dropout=0.0, activation=silu, batch_first=True
            )
            for _ in range(2)
        )
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.embed(x[:, 0]) + self.position).mean(1)


def transformer() -> nn.Sequential:
    """A body and its head, from the same random numbers every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(Rows(), nn.Linear(48, WAYS))


NETS: dict[str, Callable[[], nn.Sequential]] = {
    "conv4-64": partial(conv4, WAYS),
    "transformer": transformer,
}
LEARNERS: dict[str, Callable[..., Learner]] = {"MAML": MAML, "ANIL": ANIL}


def first(tasks: Task, n: int) -> Task:
    """The first n tasks, from the start again where there are no more."""
    drawn = len(tasks.support.x)
    if n == drawn:
        return tasks
    which = torch.arange(n, device=tasks.support.x.device) % drawn
    return Task(*(Batch(x[which], y[which]) for x, y in tasks))


def evaluated(learner: Learner, work: MetaStep, tasks: int, transductive: bool) -> Step:
    """Ours: the loss of every task."""

    def step() -> tuple[Tensor]:
        score = evaluate(
            learner,
            partial(first, work.tasks),
            tasks,
            transductive=transductive,
            metric=cross_entropy,
        )
        return (score.values,)

    return step


def looped(predict: Callable[..., Tensor], work: MetaStep, tasks: int) -> Step:
    """The plain loop: of the outputs for support x and y and query x of one task, their losses."""

    def step() -> tuple[Tensor]:
        work.model.eval()
        again = islice(cycle(work.each_task()), tasks)
        losses = [cross_entropy(predict(x, y, xq), yq) for x, y, xq, yq in again]
        return (torch.stack(losses).cpu(),)

    return step


def outputs(forward: Forward, x: Tensor, xq: Tensor, alone: bool) -> Tensor:
    """For the queries of one task: all at once, or each alone beside the support set."""
    if not alone:
        return forward(xq)
    return torch.stack([forward(torch.cat([x, query[None]]))[-1] for query in xq])


def loop(work: MetaStep, learner: str, tasks: int, alone: bool) -> Step:
    """MAML and ANIL as one writes them first: ANIL's steps are on features, MAML's on images."""
    assert isinstance(work.model, nn.Sequential)
    body, head = (
        (nn.Identity(), work.model) if learner == "MAML" else (work.model[:-1], work.model[-1])
    )

    def predict(x: Tensor, y: Tensor, xq: Tensor) -> Tensor:
        with torch.no_grad():
            z = body(x)
        theta = {n: p.detach().requires_grad_() for n, p in head.named_parameters()}
        for _ in range(work.steps):
            grads = torch.autograd.grad(
                cross_entropy(functional_call(head, theta, (z,)), y), list(theta.values())
            )
            theta = {
                n: (t - work.inner_lr * g).detach().requires_grad_()
                for (n, t), g in zip(theta.items(), grads, strict=True)
            }
        with torch.no_grad():
            return outputs(lambda x: functional_call(head, theta, (body(x),)), x, xq, alone)

    return looped(predict, work, tasks)


def drawn(net: str, dtype: torch.dtype, device: torch.device) -> MetaStep:
    """The network, images of `DRAWN` tasks, and one step on them."""
    tasks = moved_to(images(DRAWN, WAYS), dtype, device)
    return MetaStep(NETS[net]().to(device, dtype), tasks, 0.4, 1, cross_entropy)


def title(learner: str, net: str, tasks: int, transductive: bool) -> str:
    how = "all queries at once" if transductive else "each query alone"
    return f"evaluation of {learner}, {net}, {plural(tasks, 'task')}, {how}"


def evaluation(
    learner: str = "MAML",
    net: str = "conv4-64",
    tasks: int = TASKS,
    transductive: bool = True,
) -> Workload:
    """5-way 1-shot tasks of images with 15 queries a class."""

    def ours(work: MetaStep) -> Step:
        adapting = LEARNERS[learner](work.model, work.inner_lr, work.steps)
        return evaluated(adapting, work, tasks, transductive)

    alone = not transductive and net == "conv4-64"  # whose normalisation mixes examples
    plain = partial(loop, learner=learner, tasks=tasks, alone=alone)
    name = title(learner, net, tasks, transductive)
    return Workload(name, partial(drawn, net), {REFERENCE: plain, OURS: ours}, parts=tasks)


def standard() -> Iterator[Workload]:
    """What `make bench` measures."""
    yield evaluation(tasks=600)
    for learner in LEARNERS:
        for net in NETS:
            for transductive in (True, False):
                yield evaluation(learner, net, transductive=transductive)


def quick() -> Iterator[Workload]:
    """Small ones."""
    yield evaluation("MAML", "transformer", tasks=2)
    yield evaluation("ANIL", "conv4-64", tasks=2, transductive=False)
