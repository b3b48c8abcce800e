"""Labelled images: drawn by the computer, or real ones from the reader's folder."""

from metanotes.data.images.backgrounds import blend, clouded, photographs
from metanotes.data.images.digits import digits
from metanotes.data.images.glyphs import glyphs
from metanotes.data.images.images import Images
from metanotes.data.images.mini_imagenet import mini_imagenet
from metanotes.data.images.mnist_m import mnist_m
from metanotes.data.images.omniglot import omniglot
from metanotes.data.images.printed_digits import printed_digits
from metanotes.data.images.street import gtsrb, svhn

__all__ = [
    "Images",
    "blend",
    "clouded",
    "digits",
    "glyphs",
    "gtsrb",
    "mini_imagenet",
    "mnist_m",
    "omniglot",
    "photographs",
    "printed_digits",
    "svhn",
]
