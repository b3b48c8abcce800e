"""phi is how to step."""

from metanotes.optimisers.learned_optimizer import LearnedOptimizer
from metanotes.optimisers.lstm_rule import LSTMRule, log_and_sign
from metanotes.optimisers.meta_learner_lstm import GatedRule, MetaLearnerLSTM
from metanotes.optimisers.recurrent_learner import RecurrentLearner
from metanotes.optimisers.step_size_controller import (
    Rollout,
    StepSizeController,
    reinforce,
    train_controller,
)
from metanotes.optimisers.train_optimizer import train_optimizer
from metanotes.optimisers.unroll import LearningToOptimise, Position, trajectory

__all__ = [
    "GatedRule",
    "LSTMRule",
    "LearnedOptimizer",
    "LearningToOptimise",
    "MetaLearnerLSTM",
    "Position",
    "RecurrentLearner",
    "Rollout",
    "StepSizeController",
    "log_and_sign",
    "reinforce",
    "train_controller",
    "train_optimizer",
    "trajectory",
]
