"""The unroll of an LSTM optimizer: the work, and ways to the gradient of its weights.

    theta_{t+1} = theta_t + m_phi(grad f(theta_t)),    L(phi) = sum_t f(theta_t),    first order

A contender takes an `Unroll`, prepares what it needs once, and returns the step that is timed,
which returns the gradient of L in the arrangement of `LSTMRule`.

The aim was 2.3 times the speed of an LSTM cell a tensor. On two cores of an AMD EPYC (Zen 5, torch
2.13; `python -m benchmarks --only LSTM --threads 1`, or 2, nothing else running) it is

    threads    LSTM cell a tensor    metanotes       ratio    memory (states: 102 MB)
    1          437 ms                193 ms          2.25     145 MB
    2          271 ms                135 ms          2.00     154 MB

Of the time with one thread, by torch.profiler,

* 51 % are products and the sigmoids of the gates: 12.9 GFLOP, a quarter of them to find the gates
  anew, and 102 million sigmoids. At oneDNN's best, 234 GFLOP/s and 0.21 ns a sigmoid, they would
  take 55 + 21 ms; but matrices of 23 and 41 rows give it little to do for each number it moves.
* 23 % are some 20 passes over each layer's states, and the sigmoids of c; 5 % put (x, h, 1)
  together.
* The rest is Python, memory that is asked for and given back, copies, and the gradients of the
  optimizee.

So the floor, 55 + 21 ms, is not in the way: it is a sixth of what the cells take. In the way is
that everything is done operation by operation, and Python's part does not shrink with two threads.
Tried, and not kept:

* A Python thread for each half of the coordinates: no faster, and PyTorch's own threads then took
  half as long again for everything else in the process, the cells too.
* Blocks that fit the second-level cache: 1024 coordinates at once took a third longer.
* The passes compiled by torch.compile: some 5% faster, after ten seconds of compilation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from benchmarks.measure import OURS, Step, Workload
from metanotes import Batch, LSTMRule
from metanotes.data import Functions
from metanotes.nets import mlp

try:
    from metanotes import LearningToOptimize
except ImportError:  # an older version, beside which `--against` measures
    from metanotes import LearningToOptimise as LearningToOptimize  # type: ignore


@dataclass(frozen=True)
class Unroll:
    """One unroll.

    Args:
        rule: phi is its weights; of two layers.
        model: the network whose training loss is f.
        batches: what it sees at each step, and one more; x `[N, 784]`, y `[N]`.
    """

    rule: LSTMRule
    model: nn.Module
    batches: list[tuple[Tensor, Tensor]]

    @property
    def steps(self) -> int:
        return len(self.batches) - 1


class Cells(nn.Module):
    """The LSTM of a rule in torch's own modules, whose rows are i, f, g, o."""

    def __init__(self, rule: LSTMRule, sequence: bool = False) -> None:
        super().__init__()
        self.rule, self.hidden = rule, rule.hidden
        make = nn.LSTM if sequence else nn.LSTMCell
        self.layers = nn.ModuleList(
            make(w.shape[1] - rule.hidden, rule.hidden) for w in rule.weights
        ).to(rule.out_weight)
        self.out = nn.Linear(rule.hidden, 1).to(rule.out_weight)
        self.end = "_l0" if sequence else ""
        with torch.no_grad():
            for layer, w, b in zip(self.layers, rule.weights, rule.biases, strict=True):
                i, f, o, g = torch.cat((w, b[:, None]), dim=1).chunk(4)
                rows = torch.cat((i, f, g, o))
                inputs = w.shape[1] - rule.hidden
                for name, value in {
                    "weight_ih": rows[:, :inputs],
                    "weight_hh": rows[:, inputs:-1],
                    "bias_ih": rows[:, -1],
                    "bias_hh": torch.zeros_like(b),
                }.items():
                    getattr(layer, name + self.end).copy_(value)
            self.out.weight.copy_(rule.out_weight[None])
            self.out.bias.copy_(rule.out_bias)

    def step(self, x: Tensor, states: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The update `[C]` of features `[C, 2]`; the states are replaced."""
        for n, layer in enumerate(self.layers):
            if self.end:
                h, c = states[n]
                out, (h, c) = layer(x[None], (h[None], c[None]))
                x, states[n] = out[0], (h[0], c[0])
            else:
                states[n] = layer(x, states[n])
                x = states[n][0]
        return self.rule.scale * self.out(x)[:, 0]

    def gradient(self) -> list[Tensor]:
        """Of the weights, then the biases, then the output, rows in the order of `LSTMRule`."""
        weights, biases = [], []
        for layer in self.layers:
            parts = [
                getattr(layer, name + self.end).grad
                for name in ("weight_ih", "weight_hh", "bias_ih")
            ]
            i, f, g, o = torch.cat((parts[0], parts[1], parts[2][:, None]), dim=1).chunk(4)
            rows = torch.cat((i, f, o, g))
            weights.append(rows[:, :-1])
            biases.append(rows[:, -1])
        out = [self.out.weight.grad, self.out.bias.grad]
        return [*weights, *biases, *(t for t in out if t is not None)]


def torch_modules(work: Unroll, at_once: bool, sequence: bool = False) -> Step:
    """The unroll with torch's modules, tensor by tensor or for all coordinates at once."""
    from metanotes.methods.optimizers import log_and_sign  # the features; older versions: elsewhere

    cells = Cells(work.rule, sequence)
    start = {n: p.detach() for n, p in work.model.named_parameters()}

    def step() -> list[Tensor]:
        cells.zero_grad()
        theta = {n: p.clone().requires_grad_() for n, p in start.items()}
        sizes = (
            [sum(p.numel() for p in start.values())]
            if at_once
            else [p.numel() for p in start.values()]
        )
        zeros = [torch.zeros(n, work.rule.hidden).to(work.rule.out_weight) for n in sizes]
        states = [[(z, z) for _ in cells.layers] for z in zeros]
        total = torch.zeros(()).to(work.rule.out_weight)
        for t, (x, y) in enumerate(work.batches):
            loss = cross_entropy(functional_call(work.model, theta, (x,)), y)
            if t > 0:
                total = total + loss
            if t == work.steps:
                break
            grads = torch.autograd.grad(loss, list(theta.values()), retain_graph=True)
            flat = [g.detach().flatten() for g in grads]
            flat = [torch.cat(flat)] if at_once else flat
            assert work.rule.preprocess is not None
            updates = [
                cells.step(log_and_sign(g, work.rule.preprocess).T, own)
                for g, own in zip(flat, states, strict=True)
            ]
            parts = torch.cat(updates).split([p.numel() for p in theta.values()])
            theta = {n: p + u.view(p.shape) for (n, p), u in zip(theta.items(), parts, strict=True)}
        total.backward()
        return cells.gradient()

    return step


def metanotes(work: Unroll, fused: bool = True) -> Step:
    """Ours."""
    rule = work.rule
    theta = {n: p.detach()[None] for n, p in work.model.named_parameters()}
    learner = LearningToOptimize(rule, work.steps)

    def loss(theta: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(work.model, theta, (x,)), y)

    def step() -> list[Tensor]:
        learner.zero_grad()
        rule.fused = fused
        batches = cycle(Batch(x[None], y[None]) for x, y in work.batches)
        learner(Functions(loss, theta, batches)).sum().backward()
        phi = [*rule.weights, *rule.biases, rule.out_weight, rule.out_bias]
        return [p.grad for p in phi if p.grad is not None]

    return step


REFERENCE = "LSTM cell a tensor"
CONTENDERS: dict[str, Callable[[Unroll], Step]] = {
    REFERENCE: lambda work: torch_modules(work, at_once=False),
    "LSTM cell, all coordinates": lambda work: torch_modules(work, at_once=True),
    "nn.LSTM, all coordinates": lambda work: torch_modules(work, at_once=True, sequence=True),
    "metanotes, autograd's backward": lambda work: metanotes(work, fused=False),
    OURS: metanotes,
}


def unroll(hidden: int = 20, steps: int = 20) -> Workload:
    """An unroll of the MNIST optimizee 784-hidden-10, in first order: forward and backward."""
    coordinates = 784 * hidden + hidden + 10 * hidden + 10

    def work(dtype: torch.dtype, device: torch.device) -> Unroll:
        g = torch.Generator().manual_seed(0)
        model = mlp(784, hidden, 10, activation=nn.Sigmoid).to(device, dtype)
        batches = [
            (
                torch.rand(128, 784, generator=g).to(device, dtype),
                torch.randint(10, (128,), generator=g).to(device),
            )
            for _ in range(steps + 1)
        ]
        return Unroll(LSTMRule().to(device, dtype), model, batches)

    states = steps * 4 * 20 * coordinates * 4 / 2**20  # of float32, h and c of two layers
    return Workload(
        f"LSTM optimizer, 784-{hidden}-10 ({coordinates} coordinates, states {states:.0f} MiB), "
        f"{steps} steps, first order",
        work,
        CONTENDERS,
        reference=REFERENCE,
    )


def standard() -> Iterator[Workload]:
    """What `make bench` measures."""
    yield unroll()


def quick() -> Iterator[Workload]:
    """A small one."""
    yield unroll(hidden=3, steps=3)
