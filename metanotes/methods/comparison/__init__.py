"""phi is how to compare."""

from metanotes.methods.comparison.classifier import Classifier
from metanotes.methods.comparison.features import Comparing
from metanotes.methods.comparison.full_context import FullContext
from metanotes.methods.comparison.logistic import LogisticNetwork, Weighted
from metanotes.methods.comparison.matching import MatchingNetwork, Voters
from metanotes.methods.comparison.nearest_neighbor import NearestNeighbor, Neighbors
from metanotes.methods.comparison.prototypical import PrototypicalNetwork
from metanotes.methods.comparison.relation import RelationNetwork, sigmoid_mse
from metanotes.methods.comparison.relation_module import (
    RelationModule,
    feature_relation,
    map_relation,
)
from metanotes.methods.comparison.siamese import Examples, SiameseNetwork, pair_loss

__all__ = [
    "Classifier",
    "Comparing",
    "Examples",
    "FullContext",
    "LogisticNetwork",
    "MatchingNetwork",
    "NearestNeighbor",
    "Neighbors",
    "PrototypicalNetwork",
    "RelationModule",
    "RelationNetwork",
    "SiameseNetwork",
    "Voters",
    "Weighted",
    "feature_relation",
    "map_relation",
    "pair_loss",
    "sigmoid_mse",
]
