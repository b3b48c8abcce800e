"""phi is how to step."""

from metanotes.methods.optimizers.learned_optimizer import LearnedOptimizer
from metanotes.methods.optimizers.lstm_rule import LSTMRule, log_and_sign
from metanotes.methods.optimizers.meta_learner_lstm import GatedRule, MetaLearnerLSTM
from metanotes.methods.optimizers.step_size_controller import (
    Rollout,
    StepSizeController,
    reinforce,
)
from metanotes.methods.optimizers.unroll import LearningToOptimize, Position, trajectory

__all__ = [
    "GatedRule",
    "LSTMRule",
    "LearnedOptimizer",
    "LearningToOptimize",
    "MetaLearnerLSTM",
    "Position",
    "Rollout",
    "StepSizeController",
    "log_and_sign",
    "reinforce",
    "trajectory",
]
