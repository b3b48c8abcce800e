"""The parts, in their order: what matters most comes first, since time may run out.

A part is a function of a `Setting` that yields rows, each as soon as it is known.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import torch
from torch import Tensor

from benchmarks import extras, large, peers, report
from benchmarks.floor import floor
from benchmarks.gpu import training
from benchmarks.gpu.setting import Setting
from benchmarks.machine import Machine
from benchmarks.measure import OURS, REFERENCE, Effort, Step, Workload, compare, relative_error
from benchmarks.meta_step import WARM, Contenders, MetaStep, images
from benchmarks.workloads import convolutional, prototypes, sine
from metanotes import MAML
from metanotes._ground.precision import all_digits
from metanotes._ground.precision import convolutions as convolutions_round
from metanotes.engine import plan_for
from metanotes.nets import conv4
from metanotes.task import tensors_of
from metanotes.theta import How
from metanotes.theta.task_axis import ONE_BY_ONE

ROOT = Path(__file__).resolve().parents[2]
Row = dict[str, Any]


class Part(NamedTuple):
    """A part.

    Args:
        name: short.
        about: a line.
        seconds: that it may take.
        rows: what it gives.
    """

    name: str
    about: str
    seconds: float
    rows: Callable[[Setting], Iterator[Row]]


# ---------------------------------------------------------------------------------- the device


def device(setting: Setting) -> Iterator[Row]:
    """What it is, and what it can do at best."""
    machine = setting.machine
    row: Row = {"python": platform.python_version(), "torch": torch.__version__}
    if machine.device.type == "cuda":
        properties = torch.cuda.get_device_properties(machine.device)
        row |= {
            "device": properties.name,
            "memory_gb": report.rounded(properties.total_memory / 1e9),
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "convolutions": convolutions_round().before,
        }
    yield row
    if not setting.small:
        yield report.describe(machine)


# ----------------------------------------------------------------------------------- the tests


def tests(setting: Setting) -> Iterator[Row]:
    """Those that need a GPU; on a processor, for show, a few that do not."""
    gpu = setting.machine.device.type == "cuda"
    every = (ROOT / "tests").rglob("test_*.py")
    files = sorted(str(p.relative_to(ROOT)) for p in every if "mark.gpu" in p.read_text())
    chosen = ["-m", "gpu", *files] if gpu else ["-k", "do_not_mix", "tests/devices/test_devices.py"]
    several = ["-n", "4"] if gpu else ["-n", "0"]
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "tests.xml"
        line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *several]
        line += ["-o", "addopts=--import-mode=importlib", f"--junitxml={told}", *chosen]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
        if not told.exists():
            raise RuntimeError(f"pytest ended with {done.returncode}: {done.stdout[-2000:]}")
        root = ElementTree.parse(told).getroot()
    cases = list(root.iter("testcase"))
    wrong = [(case, fault) for case in cases for fault in case if fault.tag in ("failure", "error")]
    skipped = sum(case.find("skipped") is not None for case in cases)
    passed = len(cases) - len({id(case) for case, _ in wrong}) - skipped
    yield {"passed": passed, "failed": len(wrong), "skipped": skipped}
    for case, fault in wrong:
        yield {"test": case.get("name"), "failure": (fault.get("message") or "")[:600]}


# -------------------------------------------------------------------------------- measurements


def measured(workload: Workload, setting: Setting, seconds: float = 2.0) -> Row:
    """A workload, all contenders; or why not."""
    small = setting.small
    effort = Effort(1, 0.0, check=True, warm=0) if small else Effort(3, seconds)
    return attempted(
        {"workload": workload.name},
        lambda: report.entry(
            workload,
            compare(workload, setting.machine, effort),
            floor(workload, setting.machine),
        ),
    )


def attempted(what: Row, work: Callable[[], Row]) -> Row:
    """A row; where the work fails, what was tried and the error. What spoils the device ends all.

    Raises:
        RuntimeError: of CUDA's own, after which nothing in this process can be trusted.
    """
    try:
        return work()
    except Exception as error:
        if "CUDA error" in str(error):
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return {**what, "failed": f"{type(error).__name__}: {str(error).strip()[:600]}"}


def convolutions(setting: Setting, **settings: Any) -> Workload:
    """MAML on conv4, or on a small one."""
    if setting.small:
        settings = {**settings, "tasks": 2, "width": 4, "queries": 2, "size": 28, "channels": 1}
    return convolutional.conv(**settings)


def of_phi(setting: Setting, every: Contenders) -> Contenders:
    """Of the contenders, in small work those that need nothing installed."""
    apart = ("learn2learn", "higher", "TorchOpt")
    return {n: c for n, c in every.items() if not (setting.small and n in apart)}


def meta_steps(setting: Setting) -> Iterator[Row]:
    """All contenders of a meta-step, with ratios, memory and the floor."""
    if not setting.small:
        os.environ |= {"PIP_RETRIES": "0", "PIP_DEFAULT_TIMEOUT": "15"}
        for missing in extras.install():
            yield {"could not be installed": missing}
    dozen = {name: peers.DOZEN_LINES[name] for name in ("autograd over vmap",)}
    unrecorded = {"metanotes, nothing recorded": partial(peers.metanotes, record=False)}
    every = of_phi(setting, {**peers.ALL, **dozen, **unrecorded})
    some = {**peers.LIGHT, "torch.func": peers.torch_func, **dozen}
    memory = {**some, **peers.CHECKPOINT}
    yield measured(convolutions(setting, tasks=32, contenders=every), setting)
    if setting.small:
        return
    few = (REFERENCE, "learn2learn", "torch.func", OURS)
    yield measured(convolutions(setting, tasks=32, steps=5, contenders=some), setting)
    colour = {"width": 32, "channels": 3, "size": 84}
    yield measured(
        convolutions(setting, tasks=4, steps=5, pool="max", contenders=memory, **colour), setting
    )
    yield measured(
        convolutions(setting, tasks=16, pool="max", first_order=True, contenders=peers.some(*few)),
        setting,
    )
    yield measured(sine.sine(tasks=25, steps=5), setting)
    yield measured(prototypes.training(tasks=16), setting)


# ------------------------------------------------------------------------------ ways of working


def worked(way: Callable[[How], How], work: MetaStep) -> Step:
    """Ours, with another way of applying functions of one task to all than its own plan has."""
    learner = peers.maml(work, record=False)
    plan = plan_for(learner, work.tasks)
    ((key, _),) = learner.workshop.plans.items()
    learner.workshop.plans[key] = plan._replace(how=way(on_a_processor()))
    return work.step(lambda: learner(work.tasks).mean().backward())


def on_a_processor() -> How:
    """How convolutional networks are worked on there: in layers of many tasks at once."""
    return plan_for(MAML(conv4(5, channels=4), 0.1), images(2)).how._replace(apart=False)


WAYS: dict[str, Callable[[How], How]] = {
    "one by one": lambda processor: ONE_BY_ONE,
    "vmap": lambda processor: How(at_once=True),
    "task layers": lambda processor: processor._replace(channels_last=False),
    "task layers, channels last": lambda processor: processor._replace(channels_last=True),
}


def layers(setting: Setting) -> Iterator[Row]:
    """The layers that a processor is given for vmap's, beside vmap."""
    ways: Contenders = {f"metanotes, {name}": partial(worked, way) for name, way in WAYS.items()}
    contenders = {REFERENCE: peers.plain_loop, OURS: partial(peers.metanotes, record=False), **ways}
    yield measured(convolutions(setting, tasks=32, contenders=contenders), setting, 1.0)
    if setting.small:
        return
    yield measured(convolutions(setting, tasks=32, pool="max", contenders=contenders), setting, 1.0)
    yield measured(
        convolutions(setting, tasks=4, steps=5, pool="max", width=32, channels=3, size=84,
                     contenders=contenders),
        setting,
        1.0,
    )  # fmt: skip


def cuda_graph(work: MetaStep) -> Step:
    """A recording, captured in a CUDA graph by hand: what is left of the time to queue operations.

    On a processor, where there is no such graph, the recording as it is.
    """
    learner = peers.maml(work, record=True)
    if plan_for(learner, work.tasks).how.apart:
        raise NotImplementedError("convolutions on a processor are not recorded")
    for _ in range(WARM):
        learner(work.tasks).mean().backward()
    kept = learner.workshop.recordings.values()
    operations = next(entry.operations for entry in kept if hasattr(entry, "operations"))
    inputs = [*learner.parameters(), *learner.buffers(), *tensors_of(work.tasks)]
    tasks = len(work.tasks.support.x)
    if not inputs[-1].is_cuda:
        return lambda: [g / tasks for g in operations(*inputs)[1:]]
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):  # libraries choose their algorithms, and make their workspaces
            operations(*inputs)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs: list[Tensor] = operations(*inputs)

    def step() -> list[Tensor]:
        graph.replay()
        return [g / tasks for g in outputs[1:]]

    return step


def replays(setting: Setting) -> Iterator[Row]:
    """What is gained where operations are recorded, captured, compiled."""
    contenders: Contenders = {
        REFERENCE: peers.plain_loop,
        OURS: peers.metanotes,
        "metanotes, nothing recorded": partial(peers.metanotes, record=False),
        "metanotes, in a CUDA graph": cuda_graph,  # last: where it fails, so may what comes after
    }
    yield measured(sine_of(setting, contenders), setting, 1.0)
    yield measured(convolutions(setting, tasks=32, contenders=contenders), setting, 1.0)
    if setting.small:
        return
    # It takes half a minute each, so not in float64 too; the tests compare what is compiled.
    compiled = {OURS: peers.metanotes, **peers.COMPILED}
    for workload in (
        sine_of(setting, compiled),
        convolutions(setting, tasks=32, contenders=compiled),
    ):
        yield measured(replace(workload, reference=""), setting, 1.0)


def sine_of(setting: Setting, contenders: Contenders) -> Workload:
    """MAML on sine waves."""
    return sine.sine(tasks=3 if setting.small else 25, steps=2, contenders=contenders)


# ---------------------------------------------------------------------------------- precision


def precisions(where: torch.device) -> dict[str, Callable[[], AbstractContextManager[Any]]]:
    """How numbers are rounded, from the finest."""
    casts = partial(torch.autocast, where.type, torch.bfloat16)
    if where.type == "cpu":
        return {"float32": nullcontext, "bfloat16": casts}
    return {
        "float32": partial(all_digits, where),
        "float32, convolutions in TensorFloat-32": nullcontext,
        "bfloat16": casts,
    }


def precision(setting: Setting) -> Iterator[Row]:
    """Time, memory, and the error of the meta-gradient beside float64's."""
    for settings in ({"steps": 1}, {"steps": 5, "pool": "max"})[: 1 if setting.small else 2]:
        workload = convolutions(setting, tasks=32, **settings)
        where = setting.machine.device
        exact = peers.plain_loop(workload.work(torch.float64, where))()
        for name, around in precisions(where).items():
            what = {"workload": workload.name, "numbers": name}
            yield attempted(
                what, partial(rounded_by, what, around, workload, exact, setting.machine)
            )


def rounded_by(
    what: Row,
    around: Callable[[], AbstractContextManager[Any]],
    workload: Workload,
    exact: Any,
    machine: Machine,
) -> Row:
    """A meta-gradient of ours, rounded in some way."""
    work = workload.work(torch.float32, machine.device)
    with around():
        step = peers.metanotes(work, record=False)
        error = relative_error([g.double() for g in step()], exact)
        seconds = min(machine.seconds(step) for _ in range(3))
        peak = machine.peak(step)
    return {
        **what,
        "error": report.rounded(error),
        "ms": report.rounded(1e3 * seconds),
        "peak_mb": None if peak is None else report.rounded(peak / 1e6),
    }


# --------------------------------------------------------------------------------- a large phi


def large_phi(setting: Setting) -> Iterator[Row]:
    """ResNet-12 and a transformer of 21 million parameters: what each way holds and takes."""
    networks = {name: n for name, n in large.NETWORKS.items() if not name.startswith("conv4")}
    how = {"tasks": 4, "queries": 15, "steps": 5}
    if setting.small:
        networks = {"transformer": large.transformer(length=6, width=16, layers=1)}
        how = {"tasks": 2, "queries": 1, "steps": 2}
    for name, network in networks.items():
        yield from large.rows(name, network, setting.machine, **how)


PARTS = [
    Part("device", "what it is, and what it can do at best", 20, device),
    Part("tests", "the tests that need a GPU", 130, tests),
    Part("meta-steps", "all contenders of a meta-step, and the floor", 110, meta_steps),
    Part("layers", "layers of many tasks at once, beside vmap", 40, layers),
    Part("replays", "recorded, in a CUDA graph, compiled", 100, replays),
    Part("precision", "rounding, and its error", 25, precision),
    Part("large phi", "what 12 and 21 million parameters need", 60, large_phi),
    Part("omniglot", "rows on Omniglot", 60, training.omniglot_rows),
    Part("mini-imagenet", "MAML on mini-ImageNet at 84x84", 120, training.mini_imagenet_rows),
]
