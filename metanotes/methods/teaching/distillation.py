"""Knowledge distillation: a student learns what its teacher answers, beside what is right.

    p = softmax(z_teacher / tau),    q = softmax(z_student / tau)
    l = (1 - w) CE(z_student, y) + w tau^2 KL(p || q)                                         (1)

A temperature tau above 1 lets the small probabilities of the teacher count, which say what a wrong
class has in common with the right one. The gradient of KL(p || q) in z_student is (q - p) / tau,
which for large tau falls as 1 / tau^2; so the factor tau^2 keeps the two terms in proportion, and

    tau^2 KL(p || q) -> 1/(2 C) |z - mean(z)|^2,    z = z_student - z_teacher,    tau -> infinity

for C classes: the student then matches the teacher's scores, up to a number added to all of them.

Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, sections 2
and 2.1.
"""

from __future__ import annotations

from torch import Tensor

from metanotes._ground.checks import nonnegative, positive
from metanotes.learner import check_targets, cross_entropy


def distillation_loss(
    student: Tensor, teacher: Tensor, y: Tensor, *, temperature: float = 4.0, weight: float = 0.5
) -> Tensor:
    """The mean loss (1) of the examples, a scalar, differentiable in both scores.

    On the map:
        phi: the weights of a student
        adapts: nothing
        outer loss: of the labels, and how unlike its teacher it answers
        needs: first derivatives; a trained teacher

    Args:
        student: scores before the softmax, `[N, C]`.
        teacher: scores of the same classes, `[N, C]`; `detach()` them to hold the teacher constant.
        y: what is right, labels `[N]`.
        temperature: tau, above 0.
        weight: w, the part that imitates, from 0 (the labels alone) to 1 (the teacher alone).

    Raises:
        ValueError: scores that are not of the same examples and classes, labels that are none of
            them, or a temperature or weight out of range.

    Source: see the module's.

    >>> import torch
    >>> z, y = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])
    >>> distillation_loss(z, z + 5, y, weight=1.0).abs() < 1e-6     # the same answers
    tensor(True)
    >>> distillation_loss(z, z.flip(1), y, weight=1.0)
    tensor(3.0457)
    """
    tau, w = positive("temperature", temperature), mixing(weight)
    if student.ndim != 2 or teacher.shape != student.shape:
        raise ValueError(
            f"teacher has scores {list(teacher.shape)} and student {list(student.shape)}: both "
            "must be [N, C], for the same N examples and the same C classes; give the teacher a "
            "last layer with as many outputs as the student's"
        )
    check_targets(cross_entropy, student.shape[1:], y[None])
    log_p, log_q = ((z / tau).log_softmax(1) for z in (teacher, student))
    divergence = (log_p.exp() * (log_p - log_q)).sum(1).mean()
    return (1 - w) * cross_entropy(student, y) + w * tau**2 * divergence


def mixing(weight: float) -> float:
    """A weight between 0 and 1.

    Raises:
        ValueError: it is not.
    """
    if nonnegative("weight", weight) > 1:
        raise ValueError(
            f"weight={weight} must be in [0, 1]: the cross entropy has the weight 1 - weight"
        )
    return float(weight)
