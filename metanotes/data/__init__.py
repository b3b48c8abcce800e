"""Task families: where the tasks come from."""

from metanotes.data.episodes import episodes
from metanotes.data.images import Images
from metanotes.data.sampler import Sampler
from metanotes.data.sinusoid import sinusoid

__all__ = ["Images", "Sampler", "episodes", "sinusoid"]
