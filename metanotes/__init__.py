"""metanotes: learning to learn, one idea, one page of code.

A learning algorithm F_phi takes a task's training data and returns a model. phi is whatever part of
it we choose to learn, by descending the loss after learning. Start with `Learner`.

At the top are the frame, the update rules and the learners, with the few functions that are used
everywhere. Each comes from the room that owns it; other losses and helpers are imported from there,
such as `metanotes.methods.domains.mmd`.
"""

from metanotes.evaluation import Score, evaluate
from metanotes.history import History
from metanotes.inner_loop_learner import InnerLoopLearner
from metanotes.learner import Learner, cross_entropy, mse
from metanotes.methods.architecture import (
    DARTS,
    Controller,
    LearnedActivation,
    OneShot,
    TensorRates,
)
from metanotes.methods.bilevel import HyperRepresentation, InnerProblemError, hypergradient
from metanotes.methods.comparison import (
    Classifier,
    Comparing,
    LogisticNetwork,
    MatchingNetwork,
    NearestNeighbor,
    PrototypicalNetwork,
    RelationNetwork,
    SiameseNetwork,
)
from metanotes.methods.continual import OML, StreamLearner
from metanotes.methods.datapolicy import (
    L2RW,
    LearnedAugmentation,
    LookaheadLearner,
    MetaWeightNet,
)
from metanotes.methods.domains import DSN, DomainAdaptation
from metanotes.methods.initialization import (
    ANIL,
    MAML,
    LearnedRates,
    MetaSGD,
    Pretrained,
    Reptile,
)
from metanotes.methods.memory import (
    MANN,
    GaussianProcess,
    HyperNetwork,
    InContextLearner,
    MemoryModule,
    NeuralProcess,
    NeuralStatistician,
    RecurrentLearner,
    SequenceLearner,
)
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
from metanotes.methods.teaching import DatasetDistillation, MetaDistillation
from metanotes.task import Batch, Task
from metanotes.theta import over_tasks
from metanotes.training import CheckpointError, NonFiniteLossError, meta_train
from metanotes.update_rules import SGD, Adam, Momentum, RMSprop, UpdateRule

__version__ = "0.1.0"

__all__ = [
    "ANIL",
    "DARTS",
    "DSN",
    "L2RW",
    "MAML",
    "MANN",
    "OML",
    "SGD",
    "Adam",
    "Batch",
    "CheckpointError",
    "Classifier",
    "Comparing",
    "Controller",
    "DatasetDistillation",
    "DomainAdaptation",
    "GatedRule",
    "GaussianProcess",
    "History",
    "HyperNetwork",
    "HyperRepresentation",
    "InContextLearner",
    "InnerLoopLearner",
    "InnerProblemError",
    "LSTMRule",
    "LearnedActivation",
    "LearnedAugmentation",
    "LearnedOptimizer",
    "LearnedRates",
    "Learner",
    "LearningToOptimize",
    "LogisticNetwork",
    "LookaheadLearner",
    "MatchingNetwork",
    "MemoryModule",
    "MetaDistillation",
    "MetaLearnerLSTM",
    "MetaSGD",
    "MetaWeightNet",
    "Momentum",
    "NearestNeighbor",
    "NeuralProcess",
    "NeuralStatistician",
    "NonFiniteLossError",
    "OneShot",
    "Pretrained",
    "PrototypicalNetwork",
    "RMSprop",
    "RecurrentLearner",
    "RelationNetwork",
    "Reptile",
    "Score",
    "SequenceLearner",
    "SiameseNetwork",
    "StepSizeController",
    "StreamLearner",
    "Task",
    "TensorRates",
    "UpdateRule",
    "cross_entropy",
    "evaluate",
    "hypergradient",
    "meta_train",
    "mse",
    "over_tasks",
    "reinforce",
    "trajectory",
]
