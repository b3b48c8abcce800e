"""phi is a whole learning algorithm: what a net does with the examples that it remembers."""

from metanotes.methods.memory.recurrent_learner import RecurrentLearner

__all__ = ["RecurrentLearner"]
