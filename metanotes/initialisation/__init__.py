"""phi is where to start."""

from metanotes.initialisation.maml import MAML, Pretrained

__all__ = ["MAML", "Pretrained"]
