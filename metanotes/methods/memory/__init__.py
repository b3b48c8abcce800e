"""phi is a whole learning algorithm: what a net does with the examples that it remembers."""

from metanotes.methods.memory.gaussian_process import Conditioned, GaussianProcess
from metanotes.methods.memory.hypernetwork import HyperNetwork
from metanotes.methods.memory.in_context import InContextLearner
from metanotes.methods.memory.neural_process import NeuralProcess
from metanotes.methods.memory.neural_statistician import NeuralStatistician
from metanotes.methods.memory.recurrent_learner import Activations, RecurrentLearner

__all__ = [
    "Activations",
    "Conditioned",
    "GaussianProcess",
    "HyperNetwork",
    "InContextLearner",
    "NeuralProcess",
    "NeuralStatistician",
    "RecurrentLearner",
]
