"""How well a learner answers at a class's first presentation, its second, its third, ...

At the first it can only guess; at the second it has been told once, and so on. The paper's figures
(Santoro et al. 2016, table 1) are of this kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from metanotes._ground.checks import count
from metanotes._ground.modes import in_mode
from metanotes._ground.progress import progress_bar
from metanotes.evaluation import Score
from metanotes.task import Sequences, map_tensors, select, task_to

BLOCK = 50  # sequences that are drawn at once: always as many, since they depend on it
MIXED = 0.01  # share of answers that may change by rounding if the rest of a sequence is taken away


class Answering(Protocol):
    """What is asked of a learner: `answers(sequences)`, a label a step, `[T, L]`."""

    def answers(self, sequences: Sequences) -> Tensor: ...


def presentation_accuracy(answers: Tensor, sequences: Sequences) -> Tensor:
    """The fraction of right answers at each presentation, sequence by sequence.

    Args:
        answers: the labels that were named, `[T, L]`.
        sequences: what was asked.

    Returns:
        `[T, P]` in float64, P the largest presentation; NaN where a sequence has no such one.

    >>> y = torch.tensor([[0, 1, 0, 1, 0]])
    >>> presentation = torch.tensor([[1, 1, 2, 2, 3]])
    >>> drawn = Sequences(torch.zeros(1, 5, 1), y, torch.zeros(1, 5, 2), presentation)
    >>> presentation_accuracy(torch.tensor([[1, 1, 0, 1, 0]]), drawn)
    tensor([[0.5000, 1.0000, 1.0000]], dtype=torch.float64)
    """
    presentation = sequences.presentation
    at = presentation[..., None] == torch.arange(1, int(presentation.max()) + 1).to(presentation)
    right = (answers == sequences.y).double()[..., None]  # [T, L, 1]
    return (right * at).sum(1) / at.sum(1)


def by_presentation(
    learner: Answering,
    sample_sequences: Callable[[int], Sequences],
    sequences: int = 600,
    *,
    progress: bool = False,
) -> list[Score]:
    """Judge a learner of sequences by presentation.

    A sampler of `metanotes.data` is started again at its seed, as `evaluate` does.

    Args:
        learner: with `answers(sequences)`, such as `MANN`, `MemoryModule`, `SequenceLearner` around
            any network, or `Counting`. A module is judged in evaluation mode, and left as it was.
        sample_sequences: from a number to `Sequences`.
        sequences: how many, at least 2.
        progress: show a progress bar.

    Returns:
        A `Score` for each presentation, the first at 0: the accuracy, and its 95 % interval over
        sequences.

    Raises:
        ValueError: fewer than 2 sequences; or answers that depend on what comes later, or on the
            other sequences.

    >>> from metanotes.data import glyphs, sequences
    >>> from metanotes.methods.memory import Counting
    >>> scores = by_presentation(Counting(5), sequences(glyphs("evaluation"), 5, 50), sequences=100)
    >>> len(scores), abs(scores[0].mean - (1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 5) < 0.05
    (10, True)
    """
    if count("sequences", sequences) < 2:
        raise ValueError(f"sequences={sequences} is too few for an interval: at least 2")
    module = learner if isinstance(learner, nn.Module) else nn.Module()
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    sample = getattr(sample_sequences, "restarted", lambda: sample_sequences)()
    accuracies: list[Tensor] = []
    how = in_mode(module, training=False)
    with how, torch.no_grad(), progress_bar(sequences, "evaluating", progress) as bar:
        while (done := sum(map(len, accuracies))) < sequences:
            drawn = select(task_to(sample(BLOCK), device), slice(sequences - done))
            answers = learner.answers(drawn)
            if not accuracies:
                _refuse_looking_ahead(learner, drawn, answers)
            accuracies.append(presentation_accuracy(answers, drawn).cpu())
            bar.update(len(answers))
    most = max(part.shape[1] for part in accuracies)
    whole = [nn.functional.pad(a, (0, most - a.shape[1]), value=torch.nan) for a in accuracies]
    return [
        Score(values[~values.isnan()], "accuracy", transductive=False, of="sequences")
        for values in torch.cat(whole).unbind(1)
    ]


def _refuse_looking_ahead(learner: Answering, drawn: Sequences, answers: Tensor) -> None:
    """The first half of half of the sequences has to be answered as it was among the rest."""
    few, half = -(-len(answers) // 2), -(-answers.shape[1] // 2)
    again = learner.answers(map_tensors(lambda t: t[:few, :half], drawn))
    changed = float((again != answers[:few, :half]).double().mean())
    if changed > MIXED:
        raise ValueError(
            f"{100 * changed:.0f} % of the answers change when what comes later and the other "
            "sequences are taken away: the learner looks ahead (a transformer without "
            "causal=True), or mixes examples (batch normalization without running statistics)"
        )
