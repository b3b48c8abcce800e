"""Typical wrong answers to assignment 4, hypergradients."""

from tests.coursework.mistake import Mistake

MISTAKES = [
    Mistake(
        "the Jacobians of a step are taken where it ends",
        "reverse",
        "path[:-1]",
        "path[1:]",
        ("hidden-reverse",),
    ),
    Mistake(
        "backwards without the direct term",
        "reverse",
        "alpha, p = grad(E(w, lam), (w, lam))",
        "alpha, p = grad(E(w, lam), w)[0], torch.zeros_like(lam)",
        ("check-reverse",),
    ),
    Mistake(
        "α moves before p",
        "reverse",
        "alpha, alpha_B = grad(gradient_step(L, w, lam, lr), (w, lam), alpha)",
        "alpha = grad(gradient_step(L, w, lam, lr), w, alpha)[0]\n"
        "        alpha_B = grad(gradient_step(L, w, lam, lr), lam, alpha)[0]",
        ("check-reverse", "hidden-reverse"),
    ),
    Mistake(
        "forwards without A",
        "forward",
        "A @ Z + B",
        "Z + B",
        ("check-forward", "hidden-forward"),
    ),
    Mistake(
        "forwards with the Jacobians of the next step",
        "forward",
        "lr), (w, lam)\n",
        "lr), (gradient_step(L, w, lam, lr).detach(), lam)\n",
        ("hidden-forward",),
    ),
    Mistake(
        "steepest descent in place of conjugate gradients",
        "cg",
        "d = after + (after @ after) / (r @ r) * d",
        "d = after",
        ("check-cg", "hidden-cg"),
    ),
    Mistake(
        "no stop at a residual of zero",
        "cg",
        "        if r.norm() <= 1e-14 * b.norm():\n            break\n",
        "",
        ("hidden-cg",),
    ),
    Mistake(
        "the sign of the implicit term",
        "implicit",
        "in_lam - grad",
        "in_lam + grad",
        ("check-implicit", "hidden-implicit"),
    ),
    Mistake(
        "the implicit gradient without the direct term",
        "implicit",
        "return in_lam - ",
        "return -",
        ("check-implicit",),
    ),
    Mistake("λ ascends", "tune", "- rate", "+ rate", ("check-tune",)),
]
