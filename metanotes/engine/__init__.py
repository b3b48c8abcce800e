"""How the losses of tasks and their gradient are worked out: one door, `meta_step`.

It knows tasks, thetas and a small protocol (`Learned`), and no learner by name. `recording` is for
who owns a training loop, `plan_for` for who judges a learner.
"""

from metanotes.engine.plan import Itself, Plan, plan_for
from metanotes.engine.protocol import Computing, Learned, Options, Workshop
from metanotes.engine.recomputed import recomputed
from metanotes.engine.recordings import recording
from metanotes.engine.step import meta_step
from metanotes.engine.trial import Still, slow_rules_refused
from metanotes.engine.working import plain_attention_only

__all__ = [
    "Computing",
    "Itself",
    "Learned",
    "Options",
    "Plan",
    "Still",
    "Workshop",
    "meta_step",
    "plain_attention_only",
    "plan_for",
    "recomputed",
    "recording",
    "slow_rules_refused",
]
