"""phi is a whole learning algorithm: what a net does with the examples that it remembers."""

from metanotes.methods.memory.gaussian_process import Conditioned, GaussianProcess
from metanotes.methods.memory.hypernetwork import HyperNetwork
from metanotes.methods.memory.in_context import InContextLearner
from metanotes.methods.memory.mann import MANN
from metanotes.methods.memory.memory_module import MemoryModule, Recall, Slots
from metanotes.methods.memory.neural_process import NeuralProcess
from metanotes.methods.memory.neural_statistician import NeuralStatistician
from metanotes.methods.memory.presentations import by_presentation, presentation_accuracy
from metanotes.methods.memory.recurrent_learner import Activations, RecurrentLearner
from metanotes.methods.memory.sequence_learner import Counting, SequenceLearner, check_sequences

__all__ = [
    "MANN",
    "Activations",
    "Conditioned",
    "Counting",
    "GaussianProcess",
    "HyperNetwork",
    "InContextLearner",
    "MemoryModule",
    "NeuralProcess",
    "NeuralStatistician",
    "Recall",
    "RecurrentLearner",
    "SequenceLearner",
    "Slots",
    "by_presentation",
    "check_sequences",
    "presentation_accuracy",
]
