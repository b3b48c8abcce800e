"""Typical wrong answers to assignment 3, a learned optimizer."""

from tests.coursework.mistake import Mistake

MISTAKES = [
    Mistake(
        "the logarithm is not divided by p",
        "preprocess",
        ".log() / p",
        ".log()",
        ("check-preprocess", "hidden-preprocess"),
    ),
    Mistake(
        "the logarithm of 0 is taken, and thrown away",
        "preprocess",
        "torch.where(large, g.abs(), torch.ones_like(g)).log()",
        "g.abs().log()",
        ("hidden-preprocess",),
    ),
    Mistake(
        "a coordinate sees the others",
        "coordinatewise",
        "gradient.detach().reshape(-1)",
        "gradient.detach().reshape(-1) / gradient.detach().norm()",
        ("check-coordinatewise", "hidden-coordinatewise"),
    ),
    Mistake(
        "the old state is returned",
        "coordinatewise",
        ", (h, c)",
        ", tuple(state)",
        ("hidden-coordinatewise",),
    ),
    Mistake(
        "the gradient is not held constant",
        "coordinatewise",
        "gradient.detach()",
        "gradient",
        ("hidden-coordinatewise",),
    ),
    Mistake(
        "losses before the steps",
        "unroll",
        "theta = theta + update\n        losses.append(f(theta))",
        "losses.append(f(theta))\n        theta = theta + update",
        ("check-unroll", "check-unroll-derivative", "hidden-unroll"),
    ),
    Mistake(
        "second derivatives of f",
        "unroll",
        "at = theta.detach().requires_grad_()\n"
        "        (gradient,) = torch.autograd.grad(f(at), at)",
        "at = theta if theta.requires_grad else theta.detach().requires_grad_()\n"
        "        (gradient,) = torch.autograd.grad(f(at), at, create_graph=True)",
        ("check-unroll-derivative",),
    ),
    Mistake(
        "an update counts in one loss only",
        "unroll",
        "theta = theta + update",
        "theta = theta.detach() + update",
        ("check-unroll-derivative",),
    ),
    Mistake(
        "the gradients of the segments add up",
        "truncated",
        "        optimizer.zero_grad()\n",
        "",
        ("check-truncated", "hidden-truncated"),
    ),
    Mistake(
        "the state is not cut",
        "truncated",
        "[s.detach() for s in state]",
        "state",
        ("hidden-truncated",),
    ),
]
