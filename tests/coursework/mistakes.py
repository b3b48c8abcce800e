"""Typical wrong answers to each assignment, by its name."""

from tests.coursework.wrong import (
    domains,
    hypergradients,
    maml,
    optimizer,
    prototypes,
    reptile,
)

MISTAKES = {
    "1_maml_inner_loop": maml.MISTAKES,
    "2_reptile_taylor": reptile.MISTAKES,
    "3_learned_optimizer": optimizer.MISTAKES,
    "4_hypergradients": hypergradients.MISTAKES,
    "5_prototypes_and_maml": prototypes.MISTAKES,
    "6_domain_adaptation": domains.MISTAKES,
}
