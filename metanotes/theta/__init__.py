"""theta: the parameters of T tasks by name, each with a leading task axis.

    theta^n = {"weight": [T, ...], ...}        over_tasks(f)(theta, x) = (f(theta^1, x^1), ...)

A model is written for one task. `parameters` has its parameters by name, `task_axis` applies a
function of one task to all tasks, and `gradients` has their losses with the gradients at theta.
"""

from metanotes.theta.buffers import buffers_apart
from metanotes.theta.gradients import KnownGradient, losses_and_gradients, losses_pulled_back
from metanotes.theta.parameters import call, leaves, trainable, with_task_axis
from metanotes.theta.task_axis import How, in_force, over_tasks

__all__ = [
    "How",
    "KnownGradient",
    "buffers_apart",
    "call",
    "in_force",
    "leaves",
    "losses_and_gradients",
    "losses_pulled_back",
    "over_tasks",
    "trainable",
    "with_task_axis",
]
