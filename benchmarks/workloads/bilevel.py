"""Hypergradients: the work, and the contenders in the words of each library.

A contender takes a `Bilevel`, prepares what it needs once, and returns the step that is timed,
which returns the hypergradient. Of the implicit methods each first descends as the plain loop does.
The chapter reads the record that this makes:

    python -m benchmarks --only ^bilevel/ --threads 1 --seconds 12 \
        --record results/hypergradients/peers.json
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad
from torch.nn import functional as F

from benchmarks.measure import OURS, REFERENCE, Step, Workload
from metanotes import hypergradient

Tensors = tuple[Tensor, ...]
Loss = Callable[[Tensors, Tensors], Tensor]


@dataclass(frozen=True)
class Bilevel:
    """One hypergradient.

    Args:
        outer, inner: losses of w and of the hyperparameters, each a tuple of tensors.
        w0: where the descent starts.
        hyper: the hyperparameters.
        steps: of the descent.
        lr: of the descent.
        terms: of the Neumann series.
        tolerance: the residual at which conjugate gradients stop.
    """

    outer: Loss
    inner: Loss
    w0: Tensors
    hyper: Tensors
    steps: int
    lr: float
    terms: int
    tolerance: float = 1e-4


Contenders = Mapping[str, Callable[[Bilevel], Step]]


def wanted(tensors: Tensors) -> Tensors:
    """The same values, to be differentiated by."""
    return tuple(t.detach().requires_grad_() for t in tensors)


# Reverse mode -----------------------------------------------------------------------------------


def plain_loop(work: Bilevel) -> Step:
    """What one writes first: `autograd.grad` with `create_graph`, and one backward pass."""

    def step() -> Tensors:
        hyper, w = wanted(work.hyper), wanted(work.w0)
        for _ in range(work.steps):
            g = torch.autograd.grad(work.inner(w, hyper), w, create_graph=True)
            w = tuple(x - work.lr * y for x, y in zip(w, g, strict=True))
        return torch.autograd.grad(work.outer(w, hyper), hyper)

    return step


def ours(work: Bilevel, **options: Any) -> Step:
    """`metanotes.hypergradient`; options as of it."""

    def step() -> Tensors:
        result = hypergradient(
            work.outer,
            work.inner,
            work.w0,
            work.hyper,
            steps=work.steps,
            lr=work.lr,
            iterations=work.terms,
            **options,
        )
        return tuple(result.gradient)

    return step


class Parameters(nn.Module):
    """w as the parameters of a module, for the libraries that know no other."""

    def __init__(self, w: Tensors) -> None:
        super().__init__()
        self.w = nn.ParameterList([nn.Parameter(x.detach().clone()) for x in w])


def higher(work: Bilevel) -> Step:
    """higher: a differentiable copy of a module and of its optimizer."""
    from higher import innerloop_ctx

    model = Parameters(work.w0)
    optimizer = torch.optim.SGD(model.parameters(), lr=work.lr)

    def step() -> Tensors:
        hyper = wanted(work.hyper)
        with innerloop_ctx(model, optimizer) as (learner, inner):
            for _ in range(work.steps):
                inner.step(work.inner(tuple(learner.parameters()), hyper))
            return torch.autograd.grad(work.outer(tuple(learner.parameters()), hyper), hyper)

    return step


def torchopt(work: Bilevel) -> Step:
    """TorchOpt: an optimizer whose steps stay in the graph."""
    from torchopt import MetaSGD, extract_state_dict, recover_state_dict

    model = Parameters(work.w0)
    inner = MetaSGD(model.w, lr=work.lr)

    def w() -> Tensors:
        return tuple(model.w._parameters.values())  # type: ignore[arg-type]

    def step() -> Tensors:
        hyper = wanted(work.hyper)
        start = extract_state_dict(model.w, by="reference")
        start_inner = extract_state_dict(inner, by="reference")
        for _ in range(work.steps):
            inner.step(work.inner(w(), hyper))
        gradient = torch.autograd.grad(work.outer(w(), hyper), hyper)
        recover_state_dict(model.w, start)
        recover_state_dict(inner, start_inner)
        return gradient

    return step


def torch_func(work: Bilevel) -> Step:
    """torch.func: one function of the hyperparameters, with `grad` inside and outside."""

    def after(hyper: Tensors) -> Tensor:
        w = work.w0
        for _ in range(work.steps):
            g = grad(work.inner)(w, hyper)
            w = tuple(x - work.lr * y for x, y in zip(w, g, strict=True))
        return work.outer(w, hyper)

    return lambda: grad(after)(work.hyper)


# Implicit differentiation -----------------------------------------------------------------------


def descended(work: Bilevel) -> Tensors:
    """w_T, without a graph."""
    w = work.w0
    for _ in range(work.steps):
        w = wanted(w)
        with torch.enable_grad():
            g = torch.autograd.grad(work.inner(w, work.hyper), w)
        w = tuple(x.detach() - work.lr * y for x, y in zip(w, g, strict=True))
    return w


def dot(x: Tensors, y: Tensors) -> Tensor:
    return torch.stack([(s * t).sum() for s, t in zip(x, y, strict=True)]).sum()


def plain_implicit(work: Bilevel, conjugate: bool) -> Step:
    """Neumann series or conjugate gradients on one graph of the inner gradient."""

    def step() -> Tensors:
        hyper, w = wanted(work.hyper), wanted(descended(work))
        n = len(w)
        outer = torch.autograd.grad(
            work.outer(w, hyper), (*w, *hyper), allow_unused=True, materialize_grads=True
        )
        a, direct = outer[:n], outer[n:]
        g = torch.autograd.grad(work.inner(w, hyper), w, create_graph=True)

        def product(p: Tensors) -> Tensors:
            return torch.autograd.grad(g, w, p, retain_graph=True)

        if conjugate:
            q, r, p = tuple(torch.zeros_like(x) for x in a), a, a
            rr = start = dot(r, r)
            while rr > work.tolerance**2 * start:
                Hp = product(p)
                alpha = rr / dot(p, Hp)
                q = tuple(x + alpha * y for x, y in zip(q, p, strict=True))
                r = tuple(x - alpha * y for x, y in zip(r, Hp, strict=True))
                rr, beta = (after := dot(r, r)), after / rr
                p = tuple(x + beta * y for x, y in zip(r, p, strict=True))
        else:
            term = total = a
            for _ in range(work.terms - 1):
                term = tuple(x - work.lr * y for x, y in zip(term, product(term), strict=True))
                total = tuple(x + y for x, y in zip(total, term, strict=True))
            q = tuple(work.lr * x for x in total)
        mixed = torch.autograd.grad(g, hyper, q)
        return tuple(x - y for x, y in zip(direct, mixed, strict=True))

    return step


def hypergrad_neumann(work: Bilevel) -> Step:
    """hypergrad: its `num_iters` counts the products, one less than the terms."""
    from hypergrad.approx_hypergrad import neumann

    warnings.filterwarnings("ignore", "We've integrated functorch", FutureWarning)  # its old names

    def step() -> Tensors:
        w = descended(work)
        gradient: Tensors = neumann(work.inner, work.outer, w, work.hyper, work.terms - 1, work.lr)
        return gradient

    return step


def torchopt_root(work: Bilevel, solve: Callable[..., object]) -> Step:
    """TorchOpt: the descent as a solver of grad_w L = 0, differentiated implicitly."""
    from torchopt.diff.implicit import custom_root

    @custom_root(grad(work.inner), argnums=1, solve=solve)
    def solver(w0: Tensors, hyper: Tensors) -> Tensors:
        return descended(work)

    def step() -> Tensors:
        hyper = wanted(work.hyper)
        return torch.autograd.grad(work.outer(solver(work.w0, hyper), hyper), hyper)

    return step


def torchopt_neumann(work: Bilevel) -> Step:
    """TorchOpt: `maxiter` counts the products, as hypergrad does."""
    from torchopt.linear_solve import solve_inv

    return torchopt_root(work, solve_inv(ns=True, maxiter=work.terms - 1, alpha=work.lr))


def torchopt_conjugate(work: Bilevel) -> Step:
    """TorchOpt: conjugate gradients down to the same residual."""
    from torchopt.linear_solve import solve_cg

    return torchopt_root(work, solve_cg(rtol=work.tolerance, atol=0.0, maxiter=1000))


METHODS: dict[str, Contenders] = {
    "reverse": {
        REFERENCE: plain_loop,
        "higher": higher,
        "TorchOpt": torchopt,
        "torch.func": torch_func,
        OURS: ours,
        "metanotes, checkpoint": partial(ours, checkpoint=True),  # less memory for more time
    },
    "neumann": {
        REFERENCE: partial(plain_implicit, conjugate=False),
        "hypergrad": hypergrad_neumann,
        "TorchOpt": torchopt_neumann,
        OURS: partial(ours, method="neumann"),
    },
    "cg": {
        REFERENCE: partial(plain_implicit, conjugate=True),
        "TorchOpt": torchopt_conjugate,
        OURS: lambda work: ours(work, method="cg", tolerance=work.tolerance),
    },
}
BASIC: dict[str, Contenders] = {  # need nothing installed
    method: {name: c for name, c in all_of.items() if name in (REFERENCE, "torch.func", OURS)}
    for method, all_of in METHODS.items()
}


# The work ---------------------------------------------------------------------------------------


def draw(*shape: int, seed: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def penalties(
    method: str,
    features: int = 784,
    classes: int = 10,
    examples: int = 500,
    steps: int = 100,
    contenders: Contenders | None = None,
) -> Workload:
    """Logistic regression with a penalty for every feature, in the shape of MNIST."""

    def work(dtype: torch.dtype, device: torch.device) -> Bilevel:
        kind: dict[str, Any] = {"dtype": dtype, "device": device}
        x, xv = (draw(examples, features, seed=s, **kind) / features**0.5 for s in (0, 1))
        y = draw(features, classes, seed=2, **kind)
        train, valid = ((a @ y).argmax(1) for a in (x, xv))

        def inner(w: Tensors, hyper: Tensors) -> Tensor:
            penalty = (hyper[0].exp()[:, None] * w[0].square()).sum()
            return F.cross_entropy(x @ w[0] + w[1], train) + 0.5 * penalty

        def outer(w: Tensors, hyper: Tensors) -> Tensor:
            return F.cross_entropy(xv @ w[0] + w[1], valid)

        w0 = (torch.zeros(features, classes, **kind), torch.zeros(classes, **kind))
        hyper = (-5 + 0 * draw(features, seed=3, **kind),)
        return Bilevel(outer, inner, w0, hyper, steps, 1.0, 20, 1e-3)

    name = f"{method}: logistic regression {features}-{classes}, a penalty a feature, {steps} steps"
    return Workload(name, work, contenders or METHODS[method])


def weights(
    method: str,
    width: int = 64,
    examples: int = 500,
    steps: int = 50,
    contenders: Contenders | None = None,
) -> Workload:
    """A network 784-width-10 with a weight for every example."""

    def work(dtype: torch.dtype, device: torch.device) -> Bilevel:
        kind: dict[str, Any] = {"dtype": dtype, "device": device}
        x, xv = (draw(examples, 784, seed=s, **kind) for s in (0, 1))
        y, yv = (torch.arange(examples, device=device) % 10 for _ in range(2))

        def outputs(w: Tensors, x: Tensor) -> Tensor:
            return torch.tanh(x @ w[0] + w[1]) @ w[2] + w[3]

        def inner(w: Tensors, hyper: Tensors) -> Tensor:
            each = F.cross_entropy(outputs(w, x), y, reduction="none")
            penalty = sum((t.square().sum() for t in w), start=x.new_zeros(()))
            return (hyper[0].sigmoid() * each).mean() + 0.05 * penalty

        def outer(w: Tensors, hyper: Tensors) -> Tensor:
            return F.cross_entropy(outputs(w, xv), yv)

        shapes = ((784, width), (width,), (width, 10), (10,))
        w0 = tuple(0.05 * draw(*shape, seed=4, **kind) for shape in shapes)
        hyper = (torch.zeros(examples, **kind),)
        return Bilevel(outer, inner, w0, hyper, steps, 0.1, 20)

    name = f"{method}: network 784-{width}-10, a weight an example, {steps} steps"
    return Workload(name, work, contenders or METHODS[method])


def standard() -> Iterator[Workload]:
    """What `make bench` measures."""
    yield penalties("reverse")
    yield weights("reverse")
    yield penalties("reverse", features=20, classes=3, examples=50)
    yield penalties("neumann")
    yield weights("neumann")
    yield penalties("cg")


def quick() -> Iterator[Workload]:
    """Small ones, for the contenders that need nothing installed."""
    for method, contenders in BASIC.items():
        yield penalties(method, 7, 3, examples=20, steps=5, contenders=contenders)
