"""Task families: where the tasks come from."""

from metanotes.data.batches import batches
from metanotes.data.digits import digits
from metanotes.data.domains import blend, clouded, mnist_m, photographs
from metanotes.data.episodes import episodes
from metanotes.data.folders import DamagedDataError, cache_folder, data_folder
from metanotes.data.functions import Functions, FunctionSampler, networks, quadratics
from metanotes.data.glyphs import glyphs
from metanotes.data.images import Images
from metanotes.data.mini_imagenet import mini_imagenet
from metanotes.data.omniglot import omniglot
from metanotes.data.pairs import domain_pairs
from metanotes.data.printed_digits import printed_digits
from metanotes.data.sampler import Sampler
from metanotes.data.sinusoid import sinusoid
from metanotes.data.street import gtsrb, svhn
from metanotes.data.surfaces import surfaces

__all__ = [
    "DamagedDataError",
    "FunctionSampler",
    "Functions",
    "Images",
    "Sampler",
    "batches",
    "blend",
    "cache_folder",
    "clouded",
    "data_folder",
    "digits",
    "domain_pairs",
    "episodes",
    "glyphs",
    "gtsrb",
    "mini_imagenet",
    "mnist_m",
    "networks",
    "omniglot",
    "photographs",
    "printed_digits",
    "quadratics",
    "sinusoid",
    "surfaces",
    "svhn",
]
