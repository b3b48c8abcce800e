"""phi is a whole learning algorithm: what a net does with the examples that it remembers."""

from metanotes.methods.memory.recurrent_learner import Activations, RecurrentLearner

__all__ = ["Activations", "RecurrentLearner"]
