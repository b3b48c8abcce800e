"""phi is how to compare."""

from metanotes.methods.comparison.classifier import Classifier
from metanotes.methods.comparison.nearest_neighbor import NearestNeighbor, Neighbors

__all__ = ["Classifier", "NearestNeighbor", "Neighbors"]
