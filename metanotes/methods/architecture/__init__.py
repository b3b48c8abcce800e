"""phi is the network: which operations it has, and of which shape they are."""

from metanotes.methods.architecture.activation import (
    LearnedActivation,
    Sine,
    Spline,
    TensorRates,
)
from metanotes.methods.architecture.cells import (
    CELLS,
    OPERATIONS,
    CellNetwork,
    DigitCell,
    function_of,
    operation,
    train_classifier,
)
from metanotes.methods.architecture.controller import (
    Controller,
    Policy,
    Softmaxes,
    policy_search,
)
from metanotes.methods.architecture.darts import DARTS
from metanotes.methods.architecture.mixed_operation import (
    MixedOperation,
    best_choice,
    edges,
    only_path,
)
from metanotes.methods.architecture.one_shot import OneShot
from metanotes.methods.architecture.search import Trail, random_search, regularized_evolution

__all__ = [
    "CELLS",
    "DARTS",
    "OPERATIONS",
    "CellNetwork",
    "Controller",
    "DigitCell",
    "LearnedActivation",
    "MixedOperation",
    "OneShot",
    "Policy",
    "Sine",
    "Softmaxes",
    "Spline",
    "TensorRates",
    "Trail",
    "best_choice",
    "edges",
    "function_of",
    "only_path",
    "operation",
    "policy_search",
    "random_search",
    "regularized_evolution",
    "train_classifier",
]
