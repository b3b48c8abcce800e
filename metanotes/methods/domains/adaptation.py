"""Domain adaptation as a learner: the support set is of the source, the query set of the target.

    L = L_task(G(E(x_s)), y_s) + gamma L_similarity(E(x_s), E(x_t))                              (1)

E is an encoder that both domains share, G the classifier that is trained on the source's labels
alone. The similarity loss makes the two domains' representations look alike, so that G is right on
the target as well. Without it, the learner is the *source only* end of every table.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from metanotes._ground.checks import count, nonnegative
from metanotes.learner import Learner, check_targets, cross_entropy
from metanotes.methods.domains.gradient_reversal import reversal_schedule
from metanotes.task import UNLABELLED, Batch, Task, check_tasks, task_count
from metanotes.theta import over_tasks

Similarity = Callable[[Tensor, Tensor], Tensor]


class DomainAdaptation(Learner):
    """A classifier of one domain that is made to work on another: source only, DANN, or MMD.

    On the map:
        phi: a network for both domains
        adapts: nothing
        outer loss: of the source's labels, and how unlike the domains are
        needs: labels of one domain, inputs of the other

    Args:
        encoder: E, from `[n, ...]` to a code `[n, d]`.
        classifier: G, from `[n, d]` to `[n, classes]`.
        similarity: from the codes of the source and of the target, `[n, d]` and `[m, d]`, to a
            scalar: `metanotes.methods.domains.mmd`, a `DomainAdversary` (DANN), or any other; None:
            source only.
        gamma: its weight, 0 or more.
        ramp: batches over which `gamma` rises from 0 by `reversal_schedule`; 0: it is there from
            the start.

    phi is all parameters. A `Task` has the source's labelled batch as its support set and the
    target's as its query set, whose labels are -1 in training: `metanotes.data.domain_pairs` draws
    such tasks. Both batches pass through the encoder together, so batch normalisation would take
    its statistics over both.

    Raises:
        ValueError: a weight is negative.

    Source: Ganin et al., JMLR 17(59), 2016 (DANN); Bousmalis et al., NeurIPS 2016, section 3.

    >>> from metanotes.data import digits, domain_pairs, printed_digits
    >>> from metanotes.methods.domains import DomainAdversary
    >>> from metanotes.nets import conv_encoder
    >>> pairs = domain_pairs(printed_digits(n=100, size=16), digits("sklearn", size=16), size=32)
    >>> dann = DomainAdaptation(
    ...     conv_encoder(in_channels=1, size=16, widths=(8, 8)), nn.Linear(128, 10),
    ...     similarity=DomainAdversary(nn.Linear(128, 1)),
    ... )
    >>> dann(pairs(1)).shape, sorted(dann.terms(pairs(1)))
    (torch.Size([1]), ['similarity', 'task'])
    """

    seen: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        classifier: nn.Module,
        similarity: Similarity | None = None,
        *,
        gamma: float = 0.25,
        ramp: int = 0,
    ) -> None:
        super().__init__(cross_entropy)
        self.encoder, self.classifier, self.similarity = encoder, classifier, similarity
        self.weights = {"task": 1.0, "similarity": nonnegative("gamma", gamma)}
        self.ramp = count("ramp", ramp, least=0)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))  # batches, in training

    def adapt(self, support: Batch, steps: int | None = None) -> None:
        """Nothing: what there is to learn of the target is in phi."""

    def predict(self, adapted: None, x: Tensor) -> Tensor:
        """G(E(x)): x `[T, M, ...]` to `[T, M, classes]`."""
        return over_tasks(lambda images: self.classifier(self.encoder(images)))(x)

    def terms(self, tasks: Task) -> dict[str, Tensor]:
        """The parts of the loss before they are weighted, each `[T]`."""
        check_tasks(tasks)
        check_domains(tasks)
        return self.each_term(tasks)

    def each_term(self, tasks: Task) -> dict[str, Tensor]:
        """`terms`, of tasks that have been checked or whose labels are there to judge by."""
        each = [
            self.pair_terms(*batches)
            for batches in zip(tasks.support.x, tasks.support.y, tasks.query.x, strict=True)
        ]
        return {name: torch.stack([terms[name] for terms in each]) for name in each[0]}

    def pair_terms(self, source: Tensor, y: Tensor, target: Tensor) -> dict[str, Tensor]:
        if self.similarity is None:  # nothing to see in the target
            return self.shared_terms(self.encoder(source), source, y)
        return self.shared_terms(*self.codes(source, target), y)

    def codes(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        codes = self.encoder(torch.cat([source, target]))
        return codes[: len(source)], codes[len(source) :]

    def shared_terms(self, source: Tensor, target: Tensor, y: Tensor) -> dict[str, Tensor]:
        """L_task and L_similarity, from codes."""
        terms = {"task": self.loss(self.classifier(source), y)}
        if self.similarity is not None:
            terms["similarity"] = self.similarity(source, target)
        return terms

    def forward(self, tasks: Task) -> Tensor:
        """Equation (1), `[T]`."""
        check_tasks(tasks)
        check_domains(tasks)
        losses = super().forward(tasks)
        if self.training:
            self.seen += task_count(tasks)
        return losses

    def query_losses(self, tasks: Task) -> Tensor:
        """Equation (1), `[T]`."""
        weights = dict(self.weights)
        if self.ramp:
            weights["similarity"] *= reversal_schedule(float(self.seen) / self.ramp)
        terms = self.each_term(tasks)
        return sum((weights[name] * term for name, term in terms.items()), torch.zeros(()))

    def check(self, tasks: Task, output: torch.Size) -> None:
        """The labels of the source; the target's are not to be seen."""
        check_targets(self.loss, output, tasks.support.y)


def check_domains(tasks: Task) -> None:
    """Refuse domains of different shapes, and labels that adaptation must not see."""
    source, target = tasks.support.x.shape[2:], tasks.query.x.shape[2:]
    if source != target:
        raise ValueError(
            f"the source's inputs are {list(source)} and the target's {list(target)}: one encoder "
            "takes both; resize one, or repeat its grey channel (x.expand(-1, 3, -1, -1))"
        )
    if (tasks.query.y != UNLABELLED).any():
        raise ValueError(
            "query.y has labels of the target domain, which adaptation must not see: set them to "
            f"{UNLABELLED}, or draw the tasks with metanotes.data.domain_pairs"
        )
