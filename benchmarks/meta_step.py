"""The meta-step beside a plain loop over tasks: `python benchmarks/meta_step.py`.

Same tasks, same network, one process, interleaved runs; each contender first has to give the same
meta-gradient. Prints the median time of each and the median of the ratios, with their quartiles.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from metanotes import MAML, Batch, Task, cross_entropy, mse
from metanotes.data import sinusoid
from metanotes.learner import Loss
from metanotes.nets import conv4, mlp


def plain_loop(model: nn.Module, tasks: Task, inner_lr: float, steps: int, loss: Loss) -> Tensor:
    """The mean loss after learning, written task by task with `create_graph=True`."""
    losses = []
    for x, y, xq, yq in zip(*tasks.support, *tasks.query, strict=True):
        theta: dict[str, Tensor] = dict(model.named_parameters())
        for _ in range(steps):
            value = loss(functional_call(model, theta, (x,)), y)
            grads = torch.autograd.grad(value, list(theta.values()), create_graph=True)
            theta = {n: t - inner_lr * g for (n, t), g in zip(theta.items(), grads, strict=True)}
        losses.append(loss(functional_call(model, theta, (xq,)), yq))
    return torch.stack(losses).mean()


def omniglot_shaped(tasks: int) -> Task:
    """Random images in the shape of 5-way 1-shot Omniglot with 15 queries a class."""
    g = torch.Generator().manual_seed(0)
    x, xq = (torch.rand(tasks, n, 1, 28, 28, generator=g) for n in (5, 75))
    return Task(
        Batch(x, torch.arange(5).expand(tasks, 5)),
        Batch(xq, torch.arange(75).expand(tasks, 75) % 5),
    )


def gradient(model: nn.Module, loss: Callable[[], Tensor]) -> Tensor:
    model.zero_grad()
    loss().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def double(t: Tensor) -> Tensor:
    return t.double() if t.is_floating_point() else t


def compare(
    name: str, model: nn.Module, tasks: Task, inner_lr: float, steps: int, loss: Loss, runs: int
) -> None:
    """Print one row: metanotes beside the plain loop."""

    def contenders(model: nn.Module, tasks: Task) -> dict[str, Callable[[], Tensor]]:
        learner = MAML(model, inner_lr=inner_lr, steps=steps, loss=loss)
        return {
            "metanotes": lambda: learner(tasks).mean(),
            "plain loop": lambda: plain_loop(model, tasks, inner_lr, steps, loss),
        }

    exact, doubled = copy.deepcopy(model).double(), Task(*(Batch(*map(double, b)) for b in tasks))
    ours, theirs = (gradient(exact, run) for run in contenders(exact, doubled).values())
    error = float((ours - theirs).norm() / theirs.norm())
    assert error < 1e-10, f"{name}: in float64 the gradients differ by {error:.1e}"
    timed = contenders(model, tasks)
    seconds: dict[str, list[float]] = {contender: [] for contender in timed}
    for _ in range(runs):
        for contender, run in timed.items():
            start = time.perf_counter()
            gradient(model, run)
            seconds[contender].append(time.perf_counter() - start)
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    times = "".join(f"{1e3 * statistics.median(s):12.1f}" for s in seconds.values())
    print(f"{name:32}{times}{ratio:10.2f} ({low:.2f} to {high:.2f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    columns = f"{'metanotes':>12}{'plain loop':>12}{'speed-up':>10}"
    print(f"{'':32}{columns}   (ms, {options.threads} threads)")
    sines = sinusoid(shots=10, queries=10, seed=0)(25)
    for steps in (1, 5):
        name = f"sine network, 25 tasks, {steps} steps"
        compare(name, mlp(1, 40, 40, 1), sines, 0.01, steps, mse, 5 * options.runs)
    images, runs = omniglot_shaped(16), options.runs
    for pool in ("stride", "max"):
        for steps in (1, 5):
            name = f"conv4-64 ({pool}), 16 tasks, {steps} steps"
            compare(name, conv4(5, pool=pool), images, 0.4, steps, cross_entropy, runs)


if __name__ == "__main__":
    main()
