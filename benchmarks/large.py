"""Networks as large as they come, and what makes a meta-gradient of theirs fit into memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import Machine
from benchmarks.measure import relative_error
from benchmarks.meta_step import images, moved_to
from benchmarks.report import rounded
from metanotes import MAML, Batch, Task
from metanotes.nets import conv4, resnet, token_transformer

WAYS = 5
VOCABULARY = 4000


class Network(NamedTuple):
    """A network, and tasks for it.

    Args:
        make: the network.
        tasks: draws so many, with so many queries a class.
    """

    make: Callable[[], nn.Module]
    tasks: Callable[[int, int], Task]


def pictures(size: int, channels: int) -> Callable[[int, int], Task]:
    """Of random numbers, 1-shot."""
    return lambda tasks, queries: images(tasks, WAYS, queries=queries, channels=channels, size=size)


def sentences(length: int) -> Callable[[int, int], Task]:
    """Of random words, none of them padding, 1-shot."""

    def drawn(tasks: int, queries: int) -> Task:
        g = torch.Generator().manual_seed(0)

        def batch(per_class: int) -> Batch:
            n = WAYS * per_class
            x = torch.randint(1, VOCABULARY, (tasks, n, length), generator=g)
            return Batch(x, torch.arange(WAYS).repeat_interleave(per_class).repeat(tasks, 1))

        return Task(batch(1), batch(queries))

    return drawn


def transformer(length: int = 64, width: int = 512, layers: int = 6) -> Network:
    """Of 21 million parameters, as it comes."""
    sizes: dict[str, Any] = {"width": width, "heads": 8, "layers": layers}
    return Network(lambda: token_transformer(WAYS, VOCABULARY, length, **sizes), sentences(length))


def residual(size: int = 84, widths: tuple[int, ...] = (64, 160, 320, 640)) -> Network:
    """ResNet-12 with colours, of 12 million parameters as it comes."""
    make = partial(resnet, WAYS, widths, in_channels=3, size=size)
    return Network(make, pictures(size, channels=3))


def convolutional(width: int = 64) -> Network:
    """The four blocks of few-shot learning."""
    return Network(partial(conv4, WAYS, width), pictures(28, channels=1))


NETWORKS: Mapping[str, Network] = {
    "conv4, 28x28": convolutional(),
    "ResNet-12, 84x84": residual(),
    "transformer, 64 words": transformer(),
}


def parameters(network: nn.Module) -> int:
    """Their number P."""
    return sum(p.numel() for p in network.parameters())


def flops(network: Network, queries: int, steps: int = 1) -> int:
    """Floating-point operations of a task's meta-gradient, counted without doing them.

    Forward passes of an example: 9 for each of the support set, three for a gradient and six for
    its derivative, and 3 for each query.
    """
    one = network.tasks(1, queries).support.x[0, :1]
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        network.make().to("meta")(one.to("meta"))
    return (9 * steps * WAYS + 3 * queries * WAYS) * counter.get_total_flops()


# ------------------------------------------------------------------------------ ways of working


class Way(NamedTuple):
    """How a meta-gradient is worked out.

    Args:
        options: of the learner.
        around: makes a context for it.
    """

    options: Mapping[str, Any]
    around: Callable[[], AbstractContextManager[Any]] = nullcontext


def ways(device: torch.device) -> dict[str, Way]:
    """From the one that holds most. Only the last two give other numbers."""
    casts = partial(torch.autocast, device.type, torch.bfloat16)
    every = {
        "one graph of all tasks": Way({"keep_graph": True}),
        "as it comes": Way({}),
        "group=1": Way({"group": 1}),
        "group=1, the graph on the processor": Way({"group": 1}, graph_on_the_processor),
        "group=1, checkpoint": Way({"group": 1, "checkpoint": True}),
        "group=1, bfloat16": Way({"group": 1}, casts),
        "group=1, first order": Way({"group": 1, "first_order": True}),
    }
    if device.type == "cpu":
        del every["group=1, the graph on the processor"]  # where else
    return every


def graph_on_the_processor() -> AbstractContextManager[Any]:
    """What a GPU keeps for the backward pass lies in the memory of the processor."""
    return save_on_cpu(pin_memory=torch.cuda.is_available())


def rows(
    name: str, network: Network, machine: Machine, *, tasks: int, queries: int, steps: int
) -> Iterator[dict[str, Any]]:
    """What each way holds and takes, and how far its gradient is from the one in float64."""
    model = network.make().to(machine.device)
    drawn = network.tasks(tasks, queries)
    right = in_double(model, moved_to(drawn, torch.float64, machine.device), steps)
    drawn = moved_to(drawn, torch.float32, machine.device)
    phi = list(model.parameters())
    for how, way in ways(machine.device).items():
        row: dict[str, Any] = {"network": name, "way": how, "parameters": parameters(model)}
        row |= {"tasks": tasks, "queries": queries, "steps": steps}
        try:
            learner = MAML(model, 0.01, steps, **way.options)
            with way.around():
                step = partial(pulled_back, learner, drawn)
                step()  # at the first sight a plan is made
                for p in phi:
                    p.grad = None
                row["seconds"], row["processor_seconds"] = timed(step, machine)
                gradient = [torch.zeros_like(p) if p.grad is None else p.grad for p in phi]
                row["difference"] = rounded(relative_error(gradient, right))
                peak = machine.peak(step)
            row["peak_mb"] = None if peak is None else rounded(peak / 1e6)
        except RuntimeError as error:  # out of memory, above all
            if "CUDA error" in str(error):
                raise
            row["error"] = str(error).strip().splitlines()[0]
        for p in phi:
            p.grad = None
        yield row


def in_double(model: nn.Module, tasks: Task, steps: int) -> list[Tensor]:
    """The meta-gradient in float64."""
    model = deepcopy(model).double()
    pulled_back(MAML(model, 0.01, steps, group=1), tasks)
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]


def pulled_back(learner: MAML, tasks: Task) -> None:
    """A meta-gradient, in `.grad`."""
    learner(tasks).mean().backward()


def timed(step: Callable[[], object], machine: Machine) -> tuple[float, float]:
    """The seconds of a call, and those that the processor's cores have worked for it together."""
    start = time.process_time()
    seconds = machine.seconds(step)
    return rounded(seconds), rounded(time.process_time() - start)
