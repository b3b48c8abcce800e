"""phi is a representation that a stream of examples does not disturb."""

from metanotes.methods.continual.forgetting import (
    accuracy_matrix,
    average_accuracy,
    backward_transfer,
)
from metanotes.methods.continual.oml import OML
from metanotes.methods.continual.stream_learner import StreamLearner

__all__ = ["OML", "StreamLearner", "accuracy_matrix", "average_accuracy", "backward_transfer"]
