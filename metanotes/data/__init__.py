"""Task families: where the tasks come from."""

from metanotes.data.batches import batches
from metanotes.data.episodes import episodes
from metanotes.data.files import DamagedDataError, cache_folder, data_folder
from metanotes.data.functions import FunctionSampler, networks, quadratics
from metanotes.data.images import (
    Images,
    blend,
    clouded,
    digits,
    glyphs,
    gtsrb,
    mini_imagenet,
    mnist_m,
    omniglot,
    photographs,
    printed_digits,
    svhn,
)
from metanotes.data.pairs import domain_pairs
from metanotes.data.sampler import Sampler
from metanotes.data.sequences import sequences
from metanotes.data.sinusoid import sinusoid
from metanotes.data.surfaces import surfaces
from metanotes.task import Functions, Sequences

__all__ = [
    "DamagedDataError",
    "FunctionSampler",
    "Functions",
    "Images",
    "Sampler",
    "Sequences",
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
    "sequences",
    "sinusoid",
    "surfaces",
    "svhn",
]
