"""Typical wrong answers to assignment 5, prototypes against MAML."""

from tests.coursework.mistake import Mistake

MISTAKES = [
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
