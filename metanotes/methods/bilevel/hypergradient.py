"""The gradient of a loss after learning, in what learning held fixed.

    f(lambda) = E(w_T, lambda),    w_0 = Phi_0(lambda),    w_t = Phi_t(w_{t-1}, lambda)          (1)

Phi_t is a step of gradient descent on the inner loss L, with momentum:

    v_{t+1} = mu v_t + grad_w L(w_t, lambda),    w_{t+1} = w_t - eta v_{t+1}                     (2)

With A_t = dPhi_t/dw and B_t = dPhi_t/dlambda, the chain rule is worked through from either end:

    reverse:   a_T = grad_w E,  p = grad_lambda E;   p += a_t B_t,  a_{t-1} = a_t A_t,  t = T .. 1
    forward:   Z_0 = dPhi_0/dlambda,  Z_t = A_t Z_{t-1} + B_t;   p = grad_lambda E + grad_w E Z_T

and at a minimiser of L the path does not matter:

    implicit:  p = grad_lambda E - grad_w E H^-1 d2L/dw dlambda,    H = d2L/dw2
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_unflatten

from metanotes._ground.checks import count, nonnegative, positive
from metanotes.methods.bilevel.forward_mode import forward
from metanotes.methods.bilevel.implicit import implicit
from metanotes.methods.bilevel.problem import (
    Hypergradient,
    InnerProblemError,
    Objective,
    Problem,
    Rate,
)
from metanotes.methods.bilevel.trees import Tree, all_finite, requiring_grad, tree_tensors
from metanotes.methods.bilevel.unrolled import StepSizes, follow, reverse

IMPLICIT = ("cg", "neumann")
METHODS = ("reverse", "forward", "truncated", *IMPLICIT)


def hypergradient(
    outer: Objective,
    inner: Objective,
    w0: Tree | Callable[[Tree], Tree],
    hyper: Tree,
    *,
    method: str = "reverse",
    steps: int = 100,
    lr: Rate = 0.1,
    momentum: Rate = 0.0,
    last: int = 10,
    iterations: int = 100,
    tolerance: float | None = None,
    damping: float = 0.0,
    checkpoint: bool = False,
) -> Hypergradient:
    """The gradient in `hyper` of the outer loss after `steps` steps of descent on the inner loss.

    A tree is a tensor, or nested dictionaries, lists and tuples of tensors, of real floating-point
    numbers and any shapes: one penalty, a weight for every example `[N]`, all the parameters of a
    network (`dict(net.named_parameters())`). Nothing that is given is changed.

    On the map:
        phi: whatever the inner problem holds fixed
        adapts: the inner variables, T steps
        outer loss: a validation loss, after the steps or at the minimum
        needs: products with second derivatives; cg and neumann: a minimum

    Args:
        outer: E(w, hyper), a scalar: the validation loss, or the mean over tasks of their query
            losses.
        inner: L(w, hyper), a scalar: the training loss, or the sum over tasks of their support
            losses. What it draws from torch's global generators (dropout, a minibatch) is drawn
            anew at each step, and the gradient is that of the path that was taken; the implicit
            methods refuse it.
        w0: w_0, a tree, held constant; or Phi_0, a function that makes it of `hyper`
            (`lambda phi: phi` is MAML).
        hyper: lambda, a tree.
        method: one of

            - "reverse": back along the T steps, for any number of hyperparameters at once. Memory
              O(T), T times what one gradient of L saves.
            - "truncated": back along the `last` steps alone (Shaban et al. 2019). Memory O(last).
              What the start and earlier steps did to the outer loss is left out.
            - "forward": along with the steps. Memory O(P Q), for P inner variables and Q
              hyperparameters, whatever T is; time O(Q).
            - "cg": implicit, by conjugate gradients (Pedregosa 2016). Memory and time do not depend
              on T. Right where w_T minimises L.
            - "neumann": implicit, H^-1 a = eta sum_j (I - eta H)^j a, with the last lr for eta and
              `iterations` terms (Lorraine et al. 2020). With few terms it is what "truncated" gives
              at the minimiser.
        steps: T, at least 0. With 0 an implicit method takes `w0` for the minimiser.
        lr: eta, above 0: a number, or a function of `hyper` that gives a tensor, if it is learned
            (`lambda hyper: hyper["log_lr"].exp()`). One, or one for each step, `[T]`. What a
            function gives must be finite; its range is its own affair.
        momentum: mu, in [0, 1), in the same forms. Heavy ball, as in `torch.optim.SGD`.
        last: of "truncated": so many steps at the end are differentiated, at least 1.
        iterations: of "cg": at most so many; of "neumann": the number of terms.
        tolerance: of "cg" and "neumann": the residual that must be reached. None stands for 1e-10
            in "cg" (1e-4 in less than double precision) and for no demand in "neumann".
        damping: of "cg" and "neumann": H + damping I instead of H; at least 0.
        checkpoint: of "reverse" and "truncated": hold every sqrt(T)-th w, and the steps between two
            of them when it is their turn, with the random numbers of the first time. Memory
            O(sqrt(T)), for half as much time again.

    Returns:
        `Hypergradient(gradient, w, outer, inner, residual)`, without a graph. A hyperparameter on
        which neither loss depends has the gradient 0. To an implicit method so have the start, lr
        and momentum, on which no minimiser depends.

    Raises:
        InnerProblemError: the inner problem diverges; or H is singular or not positive definite in
            an implicit method, or its tolerance is not reached; or the outer loss is not finite.
        TypeError: a tree holds something else, a loss is no real scalar, or `w0` is a module.
        ValueError: an argument is out of its range, a tree has values that are not finite, a tensor
            of `hyper` is also given where it would be held constant, or a loss is one of a
            module's own parameters and not of the argument that stands for them, or `inner` does
            not depend on w, or is not the same again where that is needed.
        RuntimeError: in `torch.inference_mode`, or a loss works something out again in its backward
            pass (`torch.utils.checkpoint`).

    Sources: Franceschi, Donini, Frasconi and Pontil, "Forward and Reverse Gradient-Based
    Hyperparameter Optimization", ICML 2017, algorithms 1 and 2; Franceschi et al., "Bilevel
    Programming for Hyperparameter Optimization and Meta-Learning", ICML 2018.

    Here the inner minimiser is 3 / (1 + hyper):

    >>> def inner(w, hyper): return 0.5 * (w - 3) ** 2 + 0.5 * hyper * w**2
    >>> def outer(w, hyper): return (w - 2) ** 2
    >>> result = hypergradient(outer, inner, torch.tensor(0.0), torch.tensor(1.0))
    >>> result.w, result.gradient  # 2 (w - 2) dw/dhyper = 2 (-0.5) (-3/4)
    (tensor(1.5000), tensor(0.7500))
    """
    method, checkpoint = (
        _choice("method", method, METHODS),
        _choice("checkpoint", checkpoint, (False, True)),
    )
    steps, last = count("steps", steps, least=0), count("last", last)
    iterations = count("iterations", iterations)
    tolerance = None if tolerance is None else positive("tolerance", tolerance)
    damping = nonnegative("damping", damping)
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "torch.inference_mode() turns autograd off, which a hypergradient is made of: leave "
            "it, or take torch.no_grad()"
        )
    tensors, spec = tree_tensors("hyper", hyper)
    problem = Problem(outer, inner, w0, spec, steps, lr, momentum)
    problem.refuse_held(tree_leaves(hyper))
    # The fused kernels of attention have no second derivative.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        hypers = requiring_grad(tensors)
        if method == "forward":
            result = forward(problem, hypers)
        else:
            start = problem.start(hypers)
            if method in IMPLICIT and problem.draws(start.w, hypers):
                raise ValueError(
                    f"inner(w, hyper) draws random numbers, so that it has no one minimiser, as "
                    f"method={method!r} needs: leave out dropout (.eval()), draw them before, or "
                    "take method='reverse'"
                )
            kept = {"reverse": steps, "truncated": min(last, steps)}.get(method, 0)
            sizes = StepSizes.of(problem, start)
            path = follow(problem, start, sizes, hypers, kept, checkpoint)
            if method in IMPLICIT:
                result = implicit(
                    problem, start, path, hypers, method, iterations, tolerance, damping
                )
            else:
                result = reverse(problem, start, sizes, path, hypers, whole=kept == steps)
    if not all_finite(result.gradient):
        raise InnerProblemError(
            "the hypergradient is not finite: it grows out of range on its way through the steps; "
            "a smaller lr or fewer steps may help"
        )
    own = [t.detach().clone(memory_format=torch.contiguous_format) for t in result.gradient]
    w = [t.detach().clone() for t in result.w] if steps == 0 else result.w
    return result._replace(gradient=tree_unflatten(own, spec), w=tree_unflatten(w, problem.w_spec))


def _choice(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """The value, if it is one of the choices."""
    if not any(
        value is choice or (isinstance(value, str) and value == choice) for choice in choices
    ):
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, choices))}")
    return value
