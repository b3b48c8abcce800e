"""Typical wrong answers: each a line of the reference changed, and the checks that it fails."""

from __future__ import annotations

from typing import NamedTuple


class Mistake(NamedTuple):
    """A wrong answer.

    Args:
        what: in words, as the instructor's page has it.
        cell: the answer that is wrong, by its name.
        right, wrong: the part of the reference that is replaced, and by what.
        fails: the names of the checks whose points are lost; all others keep theirs.
    """

    what: str
    cell: str
    right: str
    wrong: str
    fails: tuple[str, ...]


MAML = [
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

REPTILE = [
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

OPTIMIZER = [
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

HYPERGRADIENTS = [
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

PROTOTYPES = [
    Mistake(
        "the support set is taken to be sorted by class",
        "prototypes",
        "torch.stack([z[y == k].mean(0) for k in range(ways)])",
        "z.reshape(ways, -1, z.shape[1]).mean(1)",
        ("check-prototypes", "hidden-prototypes"),
    ),
    Mistake(
        "classes are taken to be equally large",
        "prototypes",
        "z[y == k].mean(0)",
        "z[y == k].sum(0) * ways / len(z)",
        ("hidden-prototypes",),
    ),
    Mistake(
        "the distance is not squared",
        "logits",
        ".sum(-1)",
        ".sum(-1).sqrt()",
        ("check-logits",),
    ),
    Mistake(
        "the weight lacks its factor 2",
        "head",
        "2 * c,",
        "c,",
        ("check-head", "hidden-head"),
    ),
    Mistake(
        "all steps along the first gradient",
        "adapt",
        "for _ in range(steps):\n"
        "        away = ((z @ weight.T + bias).softmax(1) - target) / len(z)  # [N, ways]\n",
        "away = ((z @ weight.T + bias).softmax(1) - target) / len(z)\n    for _ in range(steps):\n",
        ("check-adapt", "hidden-adapt"),
    ),
    Mistake(
        "the steps cannot be differentiated",
        "adapt",
        "- target) / len(z)",
        "- target).detach() / len(z)",
        ("hidden-adapt",),
    ),
    Mistake(
        "the interval is not of pairs",
        "verdict",
        "d.std().item() / math.sqrt(len(d))",
        "math.sqrt((a.var() + b.var()).item() / len(d))",
        ("check-verdict", "hidden-verdict"),
    ),
    Mistake(
        "a verdict inside the interval",
        "verdict",
        "abs(mean) <= half",
        "mean == 0",
        ("hidden-verdict",),
    ),
    Mistake(
        "the standard deviation with n",
        "verdict",
        "d.std()",
        "d.std(correction=0)",
        ("check-verdict",),
    ),
]

DOMAINS = [
    Mistake(
        "the gradient is not turned round",
        "reversal",
        "-context.strength * gradient",
        "context.strength * gradient",
        ("check-reversal", "hidden-reversal"),
    ),
    Mistake(
        "the discriminator sees no reversal",
        "adversarial",
        "reverse(torch.cat((h, h_target)))",
        "torch.cat((h, h_target))",
        ("check-adversarial", "hidden-adversarial"),
    ),
    Mistake(
        "the classifier is reversed too",
        "adversarial",
        "classifier(h)",
        "classifier(reverse(h))",
        ("check-adversarial", "hidden-adversarial"),
    ),
    Mistake(
        "each domain counts a half, whatever its size",
        "adversarial",
        "F.binary_cross_entropy_with_logits(logit, d)",
        "sum(F.binary_cross_entropy_with_logits(logit[d == k], d[d == k]) for k in (0, 1)) / 2",
        ("hidden-adversarial",),
    ),
    Mistake(
        "the biased estimate",
        "mmd",
        "(kernel(a, a).sum() - len(a)) / (len(a) * (len(a) - 1))",
        "kernel(a, a).mean()",
        ("check-mmd", "hidden-mmd"),
    ),
    Mistake(
        "samples are taken to be equally large",
        "mmd",
        "(len(a) * (len(a) - 1))",
        "(len(x) * (len(x) - 1))",
        ("hidden-mmd",),
    ),
    Mistake(
        "one constant for the whole batch",
        "simse",
        "d.mean(1).square()",
        "d.mean().square()",
        ("check-simse", "hidden-simse"),
    ),
    Mistake(
        "rows of an image as its entries",
        "simse",
        ".flatten(1)",
        "",
        ("hidden-simse",),
    ),
    Mistake(
        "products of examples, not of columns",
        "difference",
        "(shared.T @ private)",
        "(shared * private).sum(1)",
        ("check-difference",),
    ),
]

MISTAKES = {
    "1_maml_inner_loop": MAML,
    "2_reptile_taylor": REPTILE,
    "3_learned_optimizer": OPTIMIZER,
    "4_hypergradients": HYPERGRADIENTS,
    "5_prototypes_and_maml": PROTOTYPES,
    "6_domain_adaptation": DOMAINS,
}
