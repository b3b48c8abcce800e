"""phi is a representation in which a classifier of one domain also serves another."""

from metanotes.methods.domains.adaptation import DomainAdaptation
from metanotes.methods.domains.dsn import DSN, Parts
from metanotes.methods.domains.gradient_reversal import (
    DomainAdversary,
    gradient_reversal,
    reversal_schedule,
)
from metanotes.methods.domains.losses import difference_loss, scale_invariant_mse
from metanotes.methods.domains.mmd import TwoSampleTest, gaussian_kernels, mmd, mmd_test

__all__ = [
    "DSN",
    "DomainAdaptation",
    "DomainAdversary",
    "Parts",
    "TwoSampleTest",
    "difference_loss",
    "gaussian_kernels",
    "gradient_reversal",
    "mmd",
    "mmd_test",
    "reversal_schedule",
    "scale_invariant_mse",
]
