"""Typical wrong answers to assignment 1, MAML's inner loop."""

from tests.coursework.mistake import Mistake

MISTAKES = [
    Mistake(
        "the gradients of the steps are held constant",
        "inner-loop",
        "theta, create_graph=True)",
        "theta)",
        ("check-walk-derivative", "hidden-walk"),
    ),
    Mistake(
        "every step follows the gradient at φ",
        "inner-loop",
        "loss(theta, x, y), theta,",
        "loss(phi, x, y), phi,",
        ("check-walk", "check-walk-derivative", "hidden-walk"),
    ),
    Mistake(
        "the steps write into φ",
        "inner-loop",
        "theta = [t - lr * g for t, g in zip(theta, gradients, strict=True)]",
        "[t.data.sub_(lr * g) for t, g in zip(theta, gradients, strict=True)]",
        ("check-walk", "check-walk-derivative", "hidden-walk"),
    ),
    Mistake(
        "the loss after the steps is that of the support set",
        "meta-gradient",
        "loss(theta, x_query, y_query)",
        "loss(theta, x, y)",
        ("check-meta-gradient", "hidden-meta-gradient"),
    ),
    Mistake(
        "the sum over the tasks, not the mean",
        "meta-gradient",
        ".mean()",
        ".sum()",
        ("check-meta-gradient", "hidden-meta-gradient"),
    ),
    Mistake(
        "the first-order gradient is taken at φ",
        "first-order",
        "adapt(loss, phi, x, y, lr, steps)]",
        "phi]",
        ("check-first-order", "hidden-first-order"),
    ),
    Mistake(
        "one batch of tasks for all iterations",
        "outer-loop",
        "for _ in range(iterations):\n        L, gradients = gradient_of(phi, sample())",
        "tasks = sample()\n    for _ in range(iterations):\n"
        "        L, gradients = gradient_of(phi, tasks)",
        ("check-outer-loop",),
    ),
    Mistake(
        "φ remembers the iterations before",
        "outer-loop",
        "[p.detach().requires_grad_() for p in moved]",
        "moved",
        ("hidden-outer-loop",),
    ),
]
