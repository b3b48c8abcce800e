"""Typical wrong answers to assignment 6, domain adaptation."""

from tests.coursework.mistake import Mistake

MISTAKES = [
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
