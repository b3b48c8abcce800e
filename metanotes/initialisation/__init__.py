"""phi is where to start."""

from metanotes.initialisation.anil import ANIL
from metanotes.initialisation.maml import MAML, Pretrained
from metanotes.initialisation.meta_sgd import LearnedRates, MetaSGD
from metanotes.initialisation.reptile import Reptile
from metanotes.initialisation.transfer import Classifier, NearestNeighbour

__all__ = [
    "ANIL",
    "MAML",
    "Classifier",
    "LearnedRates",
    "MetaSGD",
    "NearestNeighbour",
    "Pretrained",
    "Reptile",
]
