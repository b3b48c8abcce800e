"""phi is what the inner problem holds fixed."""

from metanotes.methods.bilevel.hyper_representation import HyperRepresentation
from metanotes.methods.bilevel.hypergradient import hypergradient
from metanotes.methods.bilevel.problem import Hypergradient, InnerProblemError

__all__ = ["HyperRepresentation", "Hypergradient", "InnerProblemError", "hypergradient"]
