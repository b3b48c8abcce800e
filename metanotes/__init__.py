"""metanotes: learning to learn, one idea, one page of code.

A learning algorithm F_phi takes a task's training data and returns a model. phi is whatever part of
it we choose to learn, by descending the loss after learning. Start with `Learner`.
"""

from metanotes.bilevel import (
    Hypergradient,
    HyperRepresentation,
    InnerProblemError,
    hypergradient,
)
from metanotes.domains import (
    DSN,
    DomainAdaptation,
    DomainAdversary,
    difference_loss,
    gradient_reversal,
    mmd,
    scale_invariant_mse,
)
from metanotes.evaluation import Score, evaluate
from metanotes.initialisation import (
    ANIL,
    MAML,
    Classifier,
    LearnedRates,
    MetaSGD,
    NearestNeighbour,
    Pretrained,
    Reptile,
)
from metanotes.inner_loop_learner import InnerLoopLearner
from metanotes.learner import Learner, cross_entropy, mse
from metanotes.optimisers import (
    GatedRule,
    LearnedOptimizer,
    LearningToOptimise,
    LSTMRule,
    MetaLearnerLSTM,
    RecurrentLearner,
    StepSizeController,
    reinforce,
    train_controller,
    train_optimizer,
    trajectory,
)
from metanotes.task import Batch, Task
from metanotes.training import CheckpointError, History, NonFiniteLossError, meta_train
from metanotes.update_rules import Adam, Momentum, RMSprop, Sgd, UpdateRule

__all__ = [
    "ANIL",
    "DSN",
    "MAML",
    "Adam",
    "Batch",
    "CheckpointError",
    "Classifier",
    "DomainAdaptation",
    "DomainAdversary",
    "GatedRule",
    "History",
    "HyperRepresentation",
    "Hypergradient",
    "InnerLoopLearner",
    "InnerProblemError",
    "LSTMRule",
    "LearnedOptimizer",
    "LearnedRates",
    "Learner",
    "LearningToOptimise",
    "MetaLearnerLSTM",
    "MetaSGD",
    "Momentum",
    "NearestNeighbour",
    "NonFiniteLossError",
    "Pretrained",
    "RMSprop",
    "RecurrentLearner",
    "Reptile",
    "Score",
    "Sgd",
    "StepSizeController",
    "Task",
    "UpdateRule",
    "cross_entropy",
    "difference_loss",
    "evaluate",
    "gradient_reversal",
    "hypergradient",
    "meta_train",
    "mmd",
    "mse",
    "reinforce",
    "scale_invariant_mse",
    "train_controller",
    "train_optimizer",
    "trajectory",
]
