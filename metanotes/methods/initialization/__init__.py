"""phi is where to start."""

from metanotes.methods.initialization.anil import ANIL
from metanotes.methods.initialization.maml import MAML
from metanotes.methods.initialization.meta_sgd import LearnedRates, MetaSGD
from metanotes.methods.initialization.pretrained import Pretrained
from metanotes.methods.initialization.reptile import Reptile

__all__ = [
    "ANIL",
    "MAML",
    "LearnedRates",
    "MetaSGD",
    "Pretrained",
    "Reptile",
]
