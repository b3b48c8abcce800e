"""How the losses of tasks and their gradient are worked out."""

from metanotes.engine.step import meta_step

__all__ = ["meta_step"]
