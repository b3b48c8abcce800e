"""Changes of the rule, the inner loop and the loss."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import metanotes
from tests.fuzz.changes.begin import package_rule, scenario, set_loss
from tests.fuzz.losses import Weighted
from tests.fuzz.plain import Plain, Rule

# ----------------------------------------------------------------------------------------- the rule


@scenario()
def rates_out_of_linspace(side):
    for lr in np.linspace(0.05, 0.4, 4):
        side.rule.lr = lr if not isinstance(side, Plain) else float(lr)
        yield


@scenario()
def a_rate_of_numpys_float32(side):
    side.rule.lr = np.float32(0.25) if not isinstance(side, Plain) else 0.25
    yield


@scenario()
def a_rate_that_is_a_tensor(side):
    side.rule.lr = torch.tensor(0.25, dtype=torch.float64)
    yield


@scenario()
def a_rate_that_is_a_tensor_refilled(side):
    side.rule.lr = torch.tensor(0.25, dtype=torch.float64)
    yield
    side.rule.lr.fill_(0.05)
    yield


@scenario()
def a_rate_that_falls_at_each_call(side):
    for t in range(5):
        side.rule.lr = 0.3 * 0.5**t
        yield


@scenario("vectors", "InnerLoopLearner", rule=Rule("Momentum", 0.1, 0.5))
def momentum(side):
    side.rule.momentum = np.float64(0.8) if not isinstance(side, Plain) else 0.8
    yield


@scenario("vectors", "InnerLoopLearner", rule=Rule("Momentum", 0.1, 0.5))
def nesterovs_form(side):
    side.rule.nesterov = True
    yield
    side.rule.nesterov = False
    yield


@scenario("vectors", "InnerLoopLearner", rule=Rule("Adam", 0.05, eps=0.1))
def betas_as_a_list(side):
    side.rule.betas = [0.5, 0.9]
    yield
    side.rule.betas[0] = 0.1
    yield


@scenario("vectors", "InnerLoopLearner", rule=Rule("Adam", 0.05, eps=0.1))
def betas_as_an_array(side):
    side.rule.betas = np.array([0.5, 0.9])
    yield
    side.rule.betas[1] = 0.6
    yield


@scenario("vectors", "InnerLoopLearner", rule=Rule("Adam", 0.05, eps=0.1))
def eps_of_the_rule(side):
    side.rule.eps = 0.5
    yield


@scenario("vectors", "Reptile", rule=Rule("RMSprop", 0.05, decay=0.9, eps=0.1), first_order=True)
def decay_of_the_rule(side):
    side.rule.decay = np.float32(0.5) if not isinstance(side, Plain) else 0.5
    yield


@scenario()
def another_rule(side):
    package_rule(side, Rule("Momentum", 0.1, 0.7), metanotes.Momentum(0.1, 0.7))
    yield
    package_rule(side, Rule("SGD", 0.1), metanotes.SGD(0.1))
    yield


@scenario("vectors", "MetaSGD", tensors=True)
def learned_rates(side):
    rates = side.rule.rates
    with torch.no_grad():
        for rate in rates.values():
            rate.mul_(-0.5)
    yield
    rates["2.bias"].data = torch.linspace(0.1, 0.4, 4, dtype=torch.float64)
    yield


# ----------------------------------------------------------------------------------- the inner loop


@scenario()
def steps_of_numpys_types(side):
    for steps in (np.int64(3), np.int32(1), np.uint8(2)):
        side.steps = steps
        yield


@scenario("vectors", options={"checkpoint": True})
def steps_of_numpys_types_with_checkpoints(side):
    side.steps = np.int64(3)
    yield


@scenario("images", "ANIL")
def steps_of_numpys_types_on_a_head(side):
    side.steps = np.int64(3)
    yield


@scenario()
def steps_there_and_back(side):
    side.steps = 4
    yield
    side.steps = 0
    yield
    side.steps = 2
    yield


@scenario("images", "Pretrained")
def steps_of_fine_tuning(side):
    side.steps = np.int64(1)
    yield


@scenario()
def first_order(side):
    side.first_order = True
    yield
    side.first_order = False
    yield


@scenario("images", "ANIL")
def first_order_on_a_head(side):
    side.first_order = True
    yield


@scenario()
def how_it_is_computed(side):
    side.checkpoint = True
    yield
    side.checkpoint = False
    side.keep_graph = True
    yield
    side.keep_graph = False
    yield


# ----------------------------------------------------------------------------------------- the loss


@scenario()
def another_loss(side):
    side.loss = F.smooth_l1_loss
    yield
    side.loss = lambda outputs, y: (outputs - y).abs().mean()
    yield
    side.loss = metanotes.mse
    yield


@scenario()
def a_loss_that_is_a_module(side):
    set_loss(side, nn.SmoothL1Loss())
    yield
    side.loss.beta = 0.3
    yield


@scenario("images", loss=nn.CrossEntropyLoss(label_smoothing=0.1))
def settings_of_the_loss(side):
    side.loss.label_smoothing = 0.4
    yield
    side.loss.reduction = "sum"
    yield


@scenario(
    "images", loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]).double()), tensors=True
)
def class_weights_of_the_loss(side):
    side.loss.weight.mul_(torch.tensor([2.0, 0.5, 1.0]))
    yield
    side.loss.weight = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)
    yield


@scenario()
def a_number_that_the_loss_looks_up(side):
    numbers = {"scale": 1.0}
    side.loss = lambda outputs, y: numbers["scale"] * (outputs - y).square().mean()
    yield
    numbers["scale"] = 3.0
    yield


@scenario("images", loss=partial(F.cross_entropy, label_smoothing=0.1))
def a_keyword_of_a_partial_loss(side):
    side.loss = partial(F.cross_entropy, label_smoothing=0.1)
    yield
    side.loss.keywords["label_smoothing"] = 0.5
    yield


class Scaled:
    """A loss that is no module, and keeps numbers of its own."""

    def __init__(self, scale: Any) -> None:
        self.scale = scale

    def __call__(self, outputs: Tensor, y: Tensor) -> Tensor:
        return (self.scale[1] * (outputs - y)).square().mean()


@scenario("vectors", loss=Scaled(torch.ones(2, dtype=torch.float64)), tensors=True)
def a_tensor_of_a_loss_that_is_no_module(side):
    side.loss = copy.deepcopy(side.loss)
    yield
    side.loss.scale[1] = 1.00001
    yield


@scenario("vectors", loss=Scaled(np.ones(2)))
def an_array_of_a_loss_that_is_no_module(side):
    scale = side.loss.scale
    scale[1] = 1.00001
    yield
    scale[1] = 1.0
    yield


SCALE = torch.ones(2, dtype=torch.float64)


def scaled(outputs: Tensor, y: Tensor) -> Tensor:
    return (SCALE[1] * (outputs - y)).square().mean()


@scenario("vectors", loss=scaled, tensors=True)
def a_tensor_that_the_loss_looks_up(side):
    SCALE[1] = 3.0
    yield
    SCALE[1] = 1.0
    yield


@scenario("vectors", loss=Weighted(), tensors=True)
def a_learned_loss(side):
    with torch.no_grad():
        side.loss.log_weight.fill_(0.7)
    yield


@scenario("vectors", loss=Weighted())
def a_learned_loss_held_fixed(side):
    side.loss.log_weight.requires_grad_(False)
    yield
    side.loss.log_weight.requires_grad_(True)
    yield
