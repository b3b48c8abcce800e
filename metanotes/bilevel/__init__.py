"""phi is what the inner problem holds fixed."""

from metanotes.bilevel.hyper_representation import HyperRepresentation

__all__ = ["HyperRepresentation"]
