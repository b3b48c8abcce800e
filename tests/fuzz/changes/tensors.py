"""Changes of parameters, modes and types, of the tasks, and of whole learners."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from metanotes import Batch, Task
from tests.fuzz.changes.begin import begin, scenario
from tests.fuzz.plain import Plain, Rule

# ----------------------------------------------------------------------------------- the parameters


@scenario(tensors=True)
def new_data_of_a_parameter(side):
    side.model[0].weight.data = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)
    yield
    side.model[0].weight.data.mul_(0.5)
    yield


@scenario(tensors=True)
def data_in_another_order_in_memory(side):
    side.model[2].weight.data = torch.linspace(-1, 1, 16, dtype=torch.float64).view(4, 4).T
    yield


@scenario(tensors=True)
def all_parameters_in_place(side):
    with torch.no_grad():
        for p in side.model.parameters():
            p.mul_(0.8).add_(0.05)
    yield


@scenario(tensors=True)
def a_state_loaded(side):
    side.model.load_state_dict({k: 0.7 * t for k, t in side.model.state_dict().items()})
    yield


@scenario(tensors=True)
def a_state_assigned(side):
    state = {k: 0.7 * t for k, t in side.model.state_dict().items()}
    side.model.load_state_dict(state, assign=True)
    yield


@scenario(tensors=True)
def steps_of_an_optimizer(side):
    parameters = list(side.model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for _ in range(3):
        for p in parameters:
            p.grad = torch.ones_like(p)
        optimizer.step()
        optimizer.zero_grad()
        yield


@scenario(tensors=True)
def parameters_from_a_vector(side):
    parameters = list(side.model.parameters())
    vector_to_parameters(0.6 * parameters_to_vector(parameters).detach(), parameters)
    yield


@scenario()
def another_parameter(side):
    side.model[0].weight = nn.Parameter(torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3))
    yield


@scenario("readers", tensors=True)
def a_tensor_that_is_no_buffer(side):
    side.model[1].tensor.mul_(1.00001)  # so little that no `repr` shows it
    yield


@scenario("constant", tensors=True)
def a_buffer(side):
    side.model[2].scale.mul_(0.3)
    yield
    side.model[2].scale = torch.linspace(1, 2, 4, dtype=torch.float64)
    yield


@scenario()
def a_layer_frozen_and_freed(side):
    side.model[0].requires_grad_(False)
    yield
    side.model[0].requires_grad_(True)
    yield


@scenario()
def all_but_one_parameter_frozen(side):
    side.model.requires_grad_(False)
    side.model[6].bias.requires_grad_(True)
    yield


@scenario("images", "ANIL")
def a_body_frozen(side):
    side.model[:-1].requires_grad_(False)
    yield
    side.model[0].requires_grad_(True)
    yield


@scenario("images")
def weights_with_channels_last(side):
    side.model.to(memory_format=torch.channels_last)
    yield


# ----------------------------------------------------------------------- modes, types, all of torch


@scenario("layered")
def evaluation_and_training(side):
    side.model[3].p = 1.0
    side.train(False)
    yield
    side.train(True)
    yield


@scenario("layered")
def one_part_in_evaluation_mode(side):
    side.model[3].p = 1.0
    side.model[3].eval()
    yield
    side.model[3].train()
    yield


@scenario("rows")
def a_transformer_in_evaluation_mode(side):
    side.train(False)
    yield
    side.train(True)
    yield


def as_type(tasks: Task, dtype: torch.dtype) -> Task:
    return Task(*(Batch(*(t.to(dtype) for t in batch)) for batch in tasks))


@scenario(part=1e-3)
def numbers_of_another_type(side):
    side.model.float()
    yield as_type(begin().tasks, torch.float32)
    side.model.double()
    yield begin().tasks


@scenario(part=1e-3)
def another_default_type(side):
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
    yield


@scenario("images", part=0.1, refusable=True)
def autocast_on_and_off(side):
    side.model.float()
    tasks = begin("images").tasks
    tasks = Task(*(Batch(b.x.float(), b.y) for b in tasks))
    yield tasks
    with torch.autocast("cpu", torch.bfloat16):
        yield tasks
    yield tasks


@scenario(part=0.1, refusable=True)
def autocast_of_vectors(side):
    side.model.float()
    tasks = as_type(begin().tasks, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        yield tasks


@scenario()
def another_number_of_threads(side):
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
    yield


@scenario("images")
def only_deterministic_algorithms(side):
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@scenario("images", part=1e-3)
def without_mkldnn(side):
    side.model.float()
    tasks = begin("images").tasks
    tasks = Task(*(Batch(b.x.float(), b.y) for b in tasks))
    yield tasks
    torch._C._set_mkldnn_enabled(False)
    try:
        yield tasks
    finally:
        torch._C._set_mkldnn_enabled(True)


# ---------------------------------------------------------------------------------------- the tasks


@scenario(tensors=True)
def tasks_of_many_shapes(side):
    tasks = begin().tasks
    for n in (4, 1, 2, 3, 1, 4, 2):
        x, y = (t[:, :n] for t in tasks.support)
        yield Task(Batch(x, y), tasks.query)


@scenario("images", tensors=True)
def images_of_many_shapes(side):
    tasks = begin("images").tasks
    for n, size in ((1, 6), (2, 4), (1, 4), (4, 6)):
        x, y = tasks.support.x[:, :n, :, :size, :size], tasks.support.y[:, :n]
        yield Task(Batch(x, y), Batch(tasks.query.x[..., :size, :size], tasks.query.y))


@scenario(tensors=True)
def numbers_of_tasks(side):
    tasks = begin().tasks
    for rows in ([0], [2, 1], [0, 1, 2, 0, 1], [1]):
        yield Task(*(Batch(*(t[rows] for t in batch)) for batch in tasks))


@scenario(tensors=True)
def tasks_that_lie_otherwise_in_memory(side):
    tasks = begin().tasks
    x = tasks.support.x
    yield Task(Batch(x.transpose(0, 2).contiguous().transpose(0, 2), tasks.support.y), tasks.query)
    yield Task(Batch(x[:1].expand(3, 4, 3), tasks.support.y), tasks.query)
    yield Task(Batch(x[:, :1].expand(3, 4, 3), tasks.support.y), tasks.query)


@scenario(tensors=True)
def support_and_queries_exchanged(side):
    tasks = begin().tasks
    yield Task(tasks.query, tasks.support)


@scenario(refusable=True)
def an_input_that_requires_a_gradient(side):
    tasks = begin().tasks
    yield Task(Batch(tasks.support.x.requires_grad_(), tasks.support.y), tasks.query)


# --------------------------------------------------------------------------------- several learners


@scenario("images", "Reptile", rule=Rule("Adam", 0.02, eps=0.1), first_order=True, batch=9)
def minibatches_of_all_examples(side):
    side.steps = np.int64(3)
    yield
    if not isinstance(side, Plain):
        side.batch = None
    yield


@scenario("vectors", "Pretrained")
def a_joint_model_changed(side):
    side.model[1] = nn.Sigmoid()
    yield
    side.loss = F.smooth_l1_loss
    yield


@scenario("images", "HyperRepresentation")
def a_representation_changed(side):
    side.model[2] = nn.ELU()
    yield
    side.rule.lr = np.float64(0.4) if not isinstance(side, Plain) else 0.4
    yield
