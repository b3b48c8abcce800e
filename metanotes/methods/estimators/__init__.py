"""phi is what the loss has no derivative in, and its gradient is estimated."""

from metanotes.methods.estimators.evolution import evolution_strategy
from metanotes.methods.estimators.finite_differences import finite_differences
from metanotes.methods.estimators.gumbel import gumbel_softmax
from metanotes.methods.estimators.score_function import RunningMean, score_function

__all__ = [
    "RunningMean",
    "evolution_strategy",
    "finite_differences",
    "gumbel_softmax",
    "score_function",
]
