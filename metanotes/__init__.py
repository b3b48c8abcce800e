"""metanotes: learning to learn, one idea, one page of code.

A learning algorithm F_phi takes a task's training data and returns a model. phi is whatever part of
it we choose to learn, by descending the loss after learning. Start with `Learner`.
"""

from metanotes.evaluation import Score, evaluate
from metanotes.inner_loop_learner import InnerLoopLearner
from metanotes.learner import Learner, cross_entropy, mse
from metanotes.methods.bilevel import (
    Hypergradient,
    HyperRepresentation,
    InnerProblemError,
    hypergradient,
)
from metanotes.methods.comparison import Classifier, NearestNeighbor
from metanotes.methods.domains import (
    DSN,
    DomainAdaptation,
    DomainAdversary,
    difference_loss,
    gradient_reversal,
    mmd,
    scale_invariant_mse,
)
from metanotes.methods.initialization import (
    ANIL,
    MAML,
    LearnedRates,
    MetaSGD,
    Pretrained,
    Reptile,
)
from metanotes.methods.memory import RecurrentLearner
from metanotes.methods.optimizers import (
    GatedRule,
    LearnedOptimizer,
    LearningToOptimize,
    LSTMRule,
    MetaLearnerLSTM,
    StepSizeController,
    reinforce,
    trajectory,
)
from metanotes.task import Batch, Task
from metanotes.theta import over_tasks
from metanotes.training import CheckpointError, History, NonFiniteLossError, meta_train
from metanotes.update_rules import SGD, Adam, Momentum, RMSprop, UpdateRule

__all__ = [
    "ANIL",
    "DSN",
    "MAML",
    "SGD",
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
    "LearningToOptimize",
    "MetaLearnerLSTM",
    "MetaSGD",
    "Momentum",
    "NearestNeighbor",
    "NonFiniteLossError",
    "Pretrained",
    "RMSprop",
    "RecurrentLearner",
    "Reptile",
    "Score",
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
    "over_tasks",
    "reinforce",
    "scale_invariant_mse",
    "trajectory",
]
