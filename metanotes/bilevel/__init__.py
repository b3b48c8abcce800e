"""phi is what the inner problem holds fixed."""

from metanotes.bilevel.hyper_representation import HyperRepresentation
from metanotes.bilevel.hypergradient import hypergradient
from metanotes.bilevel.problem import Hypergradient, InnerProblemError

__all__ = ["HyperRepresentation", "Hypergradient", "InnerProblemError", "hypergradient"]
