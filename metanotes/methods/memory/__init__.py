"""phi is a whole learning algorithm: what a net does with the examples that it remembers."""

from metanotes.methods.memory.mann import MANN
from metanotes.methods.memory.memory_module import MemoryModule, Recall, Slots
from metanotes.methods.memory.presentations import by_presentation, presentation_accuracy
from metanotes.methods.memory.recurrent_learner import Activations, RecurrentLearner
from metanotes.methods.memory.sequence_learner import Counting, SequenceLearner, check_sequences

__all__ = [
    "MANN",
    "Activations",
    "Counting",
    "MemoryModule",
    "Recall",
    "RecurrentLearner",
    "SequenceLearner",
    "Slots",
    "by_presentation",
    "check_sequences",
    "presentation_accuracy",
]
