"""Changes of modules, and of the hooks on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.nn.utils import parametrizations

from tests.fuzz.changes.begin import Scaling, fill, scenario
from tests.fuzz.draw import Draw
from tests.fuzz.modules import Residual, Twice
from tests.fuzz.networks import shaken

# -------------------------------------------------------------------------------------- the modules


@scenario()
def another_activation(side):
    for new in (nn.Sigmoid(), nn.ReLU(), nn.Identity()):
        side.model[1] = new
        yield


@scenario()
def an_activation_used_twice_then_removed(side):
    side.model[3] = side.model[1]
    yield
    side.model[3] = nn.Identity()
    yield


@scenario("shared")
def another_activation_used_twice(side):
    side.model[5] = side.model[3]
    yield


@scenario("shared")
def another_weight_used_twice(side):
    side.model[6].weight = side.model[4].weight
    yield


@scenario("layered")
def dropout_that_takes_all(side):
    side.model[3].p = 1.0
    yield
    side.model[3].p = np.float64(0.0)
    yield


@scenario("layered", training=False)
def dropout_in_evaluation_mode(side):
    side.model[3].p = 0.5
    yield


@scenario()
def two_layers_tied(side):
    side.model[2].weight = side.model[4].weight
    yield
    side.model[2].weight = nn.Parameter(torch.eye(4, dtype=torch.float64))
    yield


@scenario()
def other_layers_tied(side):
    side.model[2] = side.model[4]
    yield
    side.model[2] = nn.Linear(4, 4, dtype=torch.float64)
    fill(side.model[2])
    side.model[4] = side.model[2]
    yield


@scenario()
def one_prelu_at_two_places(side):
    side.model[1] = side.model[3] = nn.PReLU(dtype=torch.float64)
    yield
    side.model[3] = nn.PReLU(init=0.6, dtype=torch.float64)
    yield


@scenario()
def another_layer(side):
    side.model[2] = nn.Linear(4, 4, bias=False, dtype=torch.float64)
    fill(side.model[2])
    yield


@scenario()
def a_layer_more(side):
    layer = Residual(nn.Linear(2, 2, dtype=torch.float64))
    fill(layer)
    side.model.append(layer)
    yield
    del side.model[7]
    yield


@scenario()
def a_layer_less(side):
    del side.model[2:4]
    yield


@scenario()
def another_model(side):
    side.model = shaken(Draw(3), Twice(nn.Linear(3, 3)))
    side.model = nn.Sequential(side.model, fill(nn.Linear(3, 2, dtype=torch.float64)))
    yield


@scenario("images")
def another_number_of_classes(side):
    side.model[7] = fill(nn.Linear(3, 5, dtype=torch.float64))
    yield


@scenario("layered")
def numbers_of_torchs_layers(side):
    side.model[1].eps = 0.3
    yield
    side.model[2].negative_slope = np.float64(0.7)
    yield
    side.model[5].num_groups = 1
    yield
    side.model[6].dim = 0
    yield


@scenario("images")
def numbers_of_convolutions(side):
    side.model[0].padding = (0, 0)
    yield
    side.model[0].stride = (2, 2)
    yield
    side.model[0].padding, side.model[0].dilation = (2, 2), (2, 2)
    yield
    side.model[1].eps = np.float64(0.2)
    yield
    side.model[3].kernel_size = 3
    yield


@scenario("words")
def padding_of_an_embedding(side):
    side.model[0].padding_idx = 1
    yield
    side.model[0].padding_idx = None
    yield


@scenario("rows")
def the_activation_of_a_transformer(side):
    side.model[0].activation = F.gelu
    side.model[0].activation_relu_or_gelu = 2
    yield
    side.model[0].norm_first = True
    yield


@scenario("readers")
def numbers_of_a_readers_layer(side):
    layer = side.model[1]
    layer.number = np.float64(0.3)
    yield
    layer.numbers[0] = 2.0
    yield
    layer.named["factor"] = 0.4
    yield
    layer.array[1] = 0.2
    yield
    layer.function = torch.sin
    yield
    layer.tensor = torch.tensor(0.6, dtype=torch.float64)
    yield


@scenario("readers")
def numbers_of_a_readers_class(side):
    Scaling.factor = 0.5
    yield
    Scaling.everywhere["factor"] = 0.5
    yield
    Scaling.factor, Scaling.everywhere["factor"] = 1.0, 1.0
    yield


@scenario()
def another_class_of_a_layer(side):
    side.model[1].__class__ = nn.Sigmoid
    yield


@scenario()
def a_patched_forward(side):
    side.model[1].forward = torch.sin
    yield
    side.model[1].forward = lambda x: torch.sin(x) * 0.5
    yield
    del side.model[1].forward
    yield


@scenario()
def a_patched_class(side):
    forward = nn.Softplus.forward
    nn.Softplus.forward = lambda self, x: forward(self, 2 * x)
    try:
        yield
    finally:
        nn.Softplus.forward = forward
    yield


@scenario()
def a_patched_function_of_torch(side):
    softplus = F.softplus
    F.softplus = lambda x, *args: softplus(2 * x, *args)
    try:
        yield
    finally:
        F.softplus = softplus
    yield


@scenario()
def a_weight_with_a_parametrization(side):
    parametrizations.weight_norm(side.model[2])
    yield


# ---------------------------------------------------------------------------------------- the hooks


@scenario()
def a_forward_hook(side):
    handle = side.model[2].register_forward_hook(lambda module, args, y: 0.5 * y)
    yield
    handle.remove()
    yield


@scenario()
def a_forward_pre_hook(side):
    handle = side.model[2].register_forward_pre_hook(lambda module, args: (2 * args[0],))
    yield
    handle.remove()
    yield


@scenario()
def a_hook_on_all_modules(side):
    def half(module: nn.Module, args: Any, y: Any) -> Any:
        return 0.5 * y if isinstance(module, nn.Linear) else None

    handle = register_module_forward_hook(half)
    try:
        yield
    finally:
        handle.remove()
    yield


@scenario()
def a_hook_before_all_modules(side):
    def double(module: nn.Module, args: Any) -> Any:
        return (2 * args[0],) if isinstance(module, nn.Linear) else None

    handle = register_module_forward_pre_hook(double)
    try:
        yield
    finally:
        handle.remove()
    yield


@scenario()
def a_hook_on_a_parameter(side):
    handle = side.model[2].weight.register_hook(lambda g: 3 * g)
    yield
    handle.remove()
    yield


@scenario("images", "ANIL")
def a_hook_on_a_parameter_of_the_body(side):
    handle = side.model[0].weight.register_hook(lambda g: 3 * g)
    yield
    handle.remove()
    yield
