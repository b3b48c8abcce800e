"""phi is how to step."""

from metanotes.optimisers.learned_optimizer import LearnedOptimizer
from metanotes.optimisers.lstm_rule import LSTMRule, log_and_sign
from metanotes.optimisers.meta_learner_lstm import GatedRule, MetaLearnerLSTM
from metanotes.optimisers.train_optimizer import train_optimizer
from metanotes.optimisers.unroll import LearningToOptimise, Position, trajectory

__all__ = [
    "GatedRule",
    "LSTMRule",
    "LearnedOptimizer",
    "LearningToOptimise",
    "MetaLearnerLSTM",
    "Position",
    "log_and_sign",
    "train_optimizer",
    "trajectory",
]
