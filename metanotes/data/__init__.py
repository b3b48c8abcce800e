"""Task families: where the tasks come from."""

from metanotes.data.batches import batches
from metanotes.data.embedded import embedded
from metanotes.data.episodes import episodes
from metanotes.data.files import DamagedDataError, cache_folder, data_folder
from metanotes.data.functions import FunctionSampler, QuadraticSampler, networks, quadratics
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
from metanotes.data.labelled import Labelled
from metanotes.data.linear_functions import linear_functions
from metanotes.data.pairs import domain_pairs
from metanotes.data.point_sets import point_sets
from metanotes.data.sampler import Sampler
from metanotes.data.sequences import sequences
from metanotes.data.sinusoid import sinusoid
from metanotes.data.surfaces import monomials, surfaces
from metanotes.task import Functions, Sequences

__all__ = [
    "DamagedDataError",
    "FunctionSampler",
    "Functions",
    "Images",
    "Labelled",
    "QuadraticSampler",
    "Sampler",
    "Sequences",
    "batches",
    "blend",
    "cache_folder",
    "clouded",
    "data_folder",
    "digits",
    "domain_pairs",
    "embedded",
    "episodes",
    "glyphs",
    "gtsrb",
    "linear_functions",
    "mini_imagenet",
    "mnist_m",
    "monomials",
    "networks",
    "omniglot",
    "photographs",
    "point_sets",
    "printed_digits",
    "quadratics",
    "sequences",
    "sinusoid",
    "surfaces",
    "svhn",
]
