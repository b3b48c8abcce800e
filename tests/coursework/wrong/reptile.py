"""Typical wrong answers to assignment 2, Reptile and its Taylor terms."""

from tests.coursework.mistake import Mistake

MISTAKES = [
    Mistake(
        "Reptile's gradient is not divided by α",
        "reptile",
        ".detach() / lr",
        ".detach()",
        ("check-reptile", "hidden-reptile"),
    ),
    Mistake(
        "first order walks over the last minibatch too",
        "first-order",
        "losses[:-1]",
        "losses",
        ("check-first-order", "hidden-both"),
    ),
    Mistake(
        "MAML's walk has no graph",
        "maml",
        ", create_graph=True)",
        ")",
        ("check-maml", "hidden-both"),
    ),
    Mistake(
        "AvgGradInner counts a minibatch with itself",
        "terms",
        "permutations(g, 2)",
        "[(a, b) for a in g for b in g]",
        ("check-terms", "hidden-terms"),
    ),
    Mistake(
        "AvgGradInner is the whole gradient of the inner product",
        "terms",
        "g_j.detach()",
        "g_j",
        ("check-terms", "hidden-terms"),
    ),
    Mistake(
        "MAML has first order's weights",
        "weights",
        "2 * (k - 1)",
        "k - 1",
        ("check-weights", "hidden-weights"),
    ),
    Mistake(
        "Reptile's weight is right for two minibatches only",
        "weights",
        "k * (k - 1) / 2",
        "k - 1",
        ("hidden-weights",),
    ),
    Mistake("Reptile walks away", "step", "phi + epsilon", "phi - epsilon", ("check-step",)),
]
