"""phi is the data that a model is shown: how examples are altered, and what each of them counts."""

from metanotes.methods.datapolicy.augmentation import AffineAugmentation, LearnedAugmentation
from metanotes.methods.datapolicy.l2rw import L2RW
from metanotes.methods.datapolicy.lookahead import LookaheadLearner
from metanotes.methods.datapolicy.meta_weight_net import MetaWeightNet

__all__ = [
    "L2RW",
    "AffineAugmentation",
    "LearnedAugmentation",
    "LookaheadLearner",
    "MetaWeightNet",
]
