"""Short trainings on sine waves, which the tests of training, checkpoints and Ctrl+C share."""

import torch
from torch import nn

from metanotes import MAML, meta_train, mse
from metanotes.data import sinusoid
from metanotes.nets import mlp


def sine_learner(inner_lr: float = 0.01, dropout: bool = False, hidden: int = 20) -> MAML:
    model = mlp(1, hidden, 1)
    if dropout:
        model.insert(2, nn.Dropout(0.2))
    return MAML(model, inner_lr=inner_lr, loss=mse)


def train(learner, iterations, *, sampler=None, **options):
    options = {"tasks": 5, "progress": False} | options
    return meta_train(learner, sampler or sinusoid(seed=0), iterations, **options)


def parameters(learner) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in learner.parameters()])


class Wrapped:
    """A stream of sine waves; before a batch is drawn, something else is done."""

    def __init__(self, before_batch):
        self.inner, self.drawn, self.before_batch = sinusoid(seed=0), 0, before_batch
        self.state_dict, self.load_state_dict = self.inner.state_dict, self.inner.load_state_dict

    def __call__(self, tasks):
        self.drawn += 1
        self.before_batch(self.drawn)
        return self.inner(tasks)
