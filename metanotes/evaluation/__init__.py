"""The goodness of F_phi: the mean over test tasks, with its 95 % interval."""

from metanotes.evaluation.judge import evaluate
from metanotes.evaluation.score import Score, accuracy

__all__ = ["Score", "accuracy", "evaluate"]
