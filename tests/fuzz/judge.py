"""Right, refused, or wrong: a learner beside the plain loop.

A case is *right* if losses, meta-gradient, adapted weights, predictions and evaluation are those of
the plain loop, at the first call, at later ones, and after a change. It is *refused* if the package
raises an error of its own, one that a line of the package raises in words of ours, where the case
says that it may. In both the reader's model must be as it was. All else is *wrong*.
"""

from __future__ import annotations

import linecache
import traceback
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import metanotes
from metanotes import Batch, Learner, Task, evaluate
from tests.fuzz.plain import Plain, Theta
from tests.fuzz.sides import Case

PACKAGE = Path(metanotes.__file__).resolve().parent
KINDS = (ValueError, TypeError, NotImplementedError, RuntimeError)
HOOKS = [name for name in vars(nn.Module()) if name.endswith("_hooks")]


Named = dict[str, Tensor]


class Verdict(NamedTuple):
    """What came out: "right", "refused" or "wrong"; what was wrong; and the case in words."""

    outcome: str
    message: str
    case: str

    def __str__(self) -> str:
        return f"{self.outcome}: {self.message}\n    {self.case}"


class Wrong(Exception):
    """A difference, in words."""


def is_ours(error: BaseException) -> bool:
    """Whether a `raise` of the package made this error, rather than torch or a mistake."""
    if not isinstance(error, KINDS):
        return False
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if not Path(frame.filename).resolve().is_relative_to(PACKAGE):
        return False
    return linecache.getline(frame.filename, frame.lineno or 0).lstrip().startswith("raise")


# ------------------------------------------------------------------------------- what is as it was


def settings() -> dict[str, Any]:
    """What a call may not leave changed in torch."""
    return {
        "grad mode": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "default dtype": torch.get_default_dtype(),
        "math attention": torch.backends.cuda.math_sdp_enabled(),
        "flash attention": torch.backends.cuda.flash_sdp_enabled(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "mkldnn": torch._C._get_mkldnn_enabled(),
    }


def state(model: nn.Module) -> dict[str, Any]:
    """Everything of a model that a call may not change."""
    seen: dict[str, Any] = dict(settings())
    for path, module in model.named_modules(remove_duplicate=False):
        seen[f"{path} (module)"] = id(module), module.training, type(module).forward
        seen[f"{path} hooks"] = [list(getattr(module, name)) for name in HOOKS]
        seen[f"{path} attributes"] = sorted(vars(module))
        for kind in (module._parameters, module._buffers):
            for name, t in kind.items():
                if t is not None:
                    hooks = list(t._backward_hooks or ())
                    what = id(t), type(t), t.requires_grad, t.stride(), t.dtype, hooks
                    seen[f"{path}.{name}"] = what, t.detach().clone()
    return seen


def check_unchanged(before: dict[str, Any], model: nn.Module, when: str) -> None:
    after = state(model)
    for name in before.keys() | after.keys():
        if not _same(before.get(name), after.get(name)):
            raise Wrong(f"{when}: not what it was: {name}")


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


# ------------------------------------------------------------------------------------ comparisons


DIVERGED = 1e12  # a size that only a diverged descent reaches, where rounding decides


def compare(
    what: str, ours: Named, right: Named, rounded: Named | None, part: float = 1e-9
) -> None:
    """Refuse a difference of more than a part of the size.

    Args:
        what: that is compared, for the message.
        ours: the package's, by name.
        right: the plain loop's.
        rounded: the plain loop's in float32, whose own errors say how large they may be; None in
            float64.
        part: how much may be off in float64.
    """
    if ours.keys() != right.keys():
        raise Wrong(f"{what}: of {sorted(ours)}, not of {sorted(right)}")
    if not right:
        return  # nothing is learned
    total = torch.stack([t.double().square().sum() for t in right.values()]).sum().sqrt()
    for name, t in right.items():
        got = ours[name].detach().double()
        if got.shape != t.shape:
            raise Wrong(f"{what} {name}: {list(got.shape)} in place of {list(t.shape)}")
        error, size = (got - t).norm(), t.norm()
        if not size < DIVERGED:  # rounding decides by how much, but not whether
            if got.norm() < 1e-3 * DIVERGED:
                raise Wrong(f"{what} {name}: diverges in the plain loop alone")
            continue
        bound = part * (size + 1e-2 * total) + 1e-4 * part
        if rounded is not None:
            own = (rounded[name].double() - t).norm()
            if not torch.isfinite(own):  # float32 overflows
                continue
            bound = 2e-3 * (size + 1e-2 * total) + 20 * own + 1e-5
        if not error <= bound:
            raise Wrong(f"{what} {name}: off by {float(error / (size + 1e-300)):.1e}")


def learned(case: Case, learner: Learner) -> Theta:
    """What the package learns, by the plain loop's names."""
    model = learner.model
    assert isinstance(model, nn.Module)
    parts = dict(model.named_parameters())
    if case.rule.rates is not None:
        parts |= {f"rates {n}": r for n, r in learner.rule.rates.items()}
    if isinstance(learner.loss, nn.Module):
        parts |= {f"loss {n}": p for n, p in learner.loss.named_parameters()}
    own = {id(p) for p in learner.parameters() if p.requires_grad}
    if case.method == "HyperRepresentation":  # its head starts at zero, whatever weights it has
        own -= {id(p) for p in model[-1].parameters()}  # type: ignore[index]
    return {n: p for n, p in parts.items() if id(p) in own}


def leaves(tasks: Task, names: tuple[str, ...]) -> Theta:
    """Those tensors of the tasks that require a gradient."""
    return {n: getattr(getattr(tasks, n.split(".")[0]), n.split(".")[1]) for n in names}


class Results(NamedTuple):
    """What one side gives at one stage, before or after the change.

    Args:
        losses: `[T]`.
        mean: the gradient of their mean, by name.
        weighted: that of a sum with unequal weights.
        adapted: theta_k by name, `[T, ...]`.
        predictions: for the queries.
        alone: a score of each task in evaluation mode, each query beside the support set only.
        together: the same, all queries in one batch.
    """

    losses: Tensor
    mean: Theta
    weighted: Theta
    adapted: Named
    predictions: Tensor
    alone: Tensor
    together: Tensor


def weights(losses: Tensor) -> Tensor:
    """Unequal weights for the tasks."""
    return torch.linspace(0.5, 2.0, len(losses)).to(losses)


def score(outputs: Tensor, y: Tensor | None) -> Tensor:
    """A number that no two different outputs share."""
    flat = outputs.reshape(-1)
    return (flat * torch.linspace(1.0, 2.0, flat.numel(), dtype=flat.dtype)).mean()


def plain_results(
    case: Case, side: Plain, tasks: Task, dtype: torch.dtype | None = None
) -> Results:
    """By the plain loop."""
    tasks = case.own_tasks(tasks, dtype)
    inputs = leaves(tasks, case.differentiated)
    losses = side.losses(tasks)
    if losses.shape != (len(tasks.support.y),):
        raise ValueError("the loss of a task is not a scalar")
    weighted = side.gradients((weights(losses) * losses).sum(), inputs, keep=True)
    mean = side.gradients(losses.mean(), inputs)
    adapted = side.adapt(tasks)
    names = adapted[0][1] if adapted else []
    stacked = {n: torch.stack([theta[n].detach() for theta, _ in adapted]) for n in names}
    predictions = side.predict(adapted, tasks)
    flags = [(m, m.training) for m in side.model.modules()]
    side.train(False)
    judged = side.adapt(tasks, case.evaluation_steps)
    outputs = side.predict_alone(judged, tasks), side.predict(judged, tasks)
    for module, mode in flags:
        module.training = mode
    alone, together = (torch.stack([score(o, None) for o in each]) for each in outputs)
    return Results(losses.detach(), mean, weighted, stacked, predictions, alone, together)


# --------------------------------------------------------------------------------- the package's


def call(case: Case, learner: Learner, tasks: Task, way: str) -> tuple[Tensor, Theta]:
    """Losses, and their gradient by "backward", by "grad", or by "weighted" of an unequal sum."""
    tasks = case.own_tasks(tasks)
    inputs = leaves(tasks, case.differentiated)
    wanted = learned(case, learner) | inputs
    losses = learner(tasks)
    total = (weights(losses) * losses).sum() if way == "weighted" else losses.mean()
    grads: Any = [None] * len(wanted)
    if total.requires_grad and way == "backward":
        learner.zero_grad()
        total.backward()
        grads = [t.grad for t in wanted.values()]
        learner.zero_grad()
    elif total.requires_grad and wanted:
        grads = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    found = zip(wanted.items(), grads, strict=True)
    return losses.detach(), {n: torch.zeros_like(t) if g is None else g for (n, t), g in found}


def evaluation(case: Case, learner: Learner, tasks: Task, transductive: bool) -> Tensor:
    """The score of each task, by `evaluate`."""
    tasks = case.own_tasks(tasks)
    count = len(tasks.support.y)

    def sample(number: int) -> Task:
        rows = torch.arange(number) % count
        parts = []
        for x, y in tasks:
            x = {k: t[rows] for k, t in x.items()} if isinstance(x, dict) else x[rows]
            parts.append(Batch(x, y[rows]))
        return Task(*parts)

    how: dict[str, Any] = {"metric": score, "transductive": transductive}
    if case.method != "Prototypes":
        how["steps"] = case.evaluation_steps
    return evaluate(learner, sample, max(2, count), **how).values[:count]


def named(adapted: Any, right: Named) -> Named:
    """theta_k by the model's names, from those of the model or of the part that adapts."""
    by_name = {}
    for name in right:
        keys = [k for k in adapted if name == k or name.endswith(f".{k}")]
        if not keys:
            raise Wrong(f"adapt gives {sorted(adapted)}, without {name}")
        by_name[name] = adapted[max(keys, key=len)]
    return by_name


class Stage:
    """Everything that is asked of a learner at one stage, noted until the plain loop has spoken."""

    def __init__(self, case: Case, learner: Learner, tasks: Task, ways: list[str]) -> None:
        self.case, self.learner, self.tasks, self.ways = case, learner, tasks, ways
        self.where = "at the first call"
        self.calls: list[tuple[Tensor, Theta]] = []

    def run(self) -> None:
        """The calls, in the order in which a reader makes them."""
        case, learner = self.case, self.learner
        for way in self.ways:
            self.calls.append(call(case, learner, self.tasks, way))
            self.where = f"at a call after {len(self.calls)}"
        self.where = "at a call without gradients"
        with torch.no_grad():
            self.calls.append((learner(case.own_tasks(self.tasks)), {}))
        own = case.own_tasks(self.tasks)
        self.where = "at adapt"
        adapted = learner.adapt(own.support)
        self.where = "at predict"
        self.predictions = learner.predict(adapted, own.query.x)
        if isinstance(adapted, dict):  # may be views of phi, which changes
            adapted = {name: t.detach().clone() for name, t in adapted.items()}
        self.adapted: Any = adapted
        self.where = "at evaluate"
        self.alone = evaluation(case, learner, self.tasks, transductive=False)
        self.together = evaluation(case, learner, self.tasks, transductive=True)

    def check(self, right: Results, rounded: Results | None = None, part: float = 1e-9) -> None:
        """Compare all of it with the plain loop, to a part of the size."""
        for number, (way, (losses, gradient)) in enumerate(
            zip([*self.ways, "no_grad"], self.calls, strict=True)
        ):
            when = f"call {number + 1} ({way}), the"
            own = rounded and {"losses": rounded.losses}
            compare(when, {"losses": losses}, {"losses": right.losses}, own, part)
            if way != "no_grad":
                name = "weighted" if way == "weighted" else "mean"
                own = rounded and getattr(rounded, name)
                compare(f"{when} gradient of", gradient, getattr(right, name), own, part)
        if right.adapted:
            adapted = named(self.adapted, right.adapted)
            compare("adapt, the", adapted, right.adapted, rounded and rounded.adapted, part)
        for name in ("predictions", "alone", "together"):
            pair = {name: getattr(self, name)}, {name: getattr(right, name)}
            compare("the", *pair, rounded and {name: getattr(rounded, name)}, part)


def judge(case: Case) -> Verdict:
    """The verdict on a case."""
    stages: list[Stage] = []
    error: Exception | None = None
    wrong = ""
    where = "making the learner"
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            learner = case.learner()
            model: Any = learner.model
            for stage in ("before", "after"):
                tasks = case.tasks
                if stage == "after":
                    tasks = tasks if case.change.tasks is None else case.change.tasks
                    if case.change.apply is not None:
                        case.change.apply(learner)
                ways = ["backward", "grad", "weighted"] if stage == "before" else ["backward"]
                stages.append(Stage(case, learner, tasks, ways))
                before = state(model)
                try:
                    stages[-1].run()
                finally:
                    where = f"{stage} the change, {stages[-1].where}"
                    check_unchanged(before, model, where)
        except Wrong as difference:
            wrong = str(difference)
        except Exception as raised:
            error = raised
    text, impossible = str(case), ""
    with warnings.catch_warnings(record=True) as plainly_said:
        warnings.simplefilter("always")
        try:
            expected = _expected(case, torch.float64)
            rounded = None if case.dtype == torch.float64 else _expected(case, case.dtype)
        except Exception as raised:
            impossible = f"{type(raised).__name__}: {str(raised)[:100]}"
    torch.set_warn_always(always)
    if error is not None:
        words = f"{where}: {type(error).__name__}: {str(error)[:300]}"
        if is_ours(error) and not wrong and (case.refusable or impossible):
            return Verdict("refused", words, text)
        need = "refused without need" if is_ours(error) else "raised"
        return Verdict("wrong", f"{need}, {words}", text)
    if wrong:
        return Verdict("wrong", wrong, text)
    if impossible:
        return Verdict("wrong", f"gives a value where torch says {impossible}", text)
    for number, stage in enumerate(stages):
        try:
            stage.check(expected[number], None if rounded is None else rounded[number])
        except Wrong as difference:
            change = f"after the change, {case.change.name}: " * number
            return Verdict("wrong", change + str(difference), text)
    usual = {str(warning.message) for warning in plainly_said}
    for warning in (w for w in said if str(w.message) not in usual):
        return Verdict("wrong", f"warns: {str(warning.message)[:300]}", text)
    return Verdict("right", "", text)


def _expected(case: Case, dtype: torch.dtype) -> list[Results]:
    """The plain loop's results before and after the change."""
    side = case.plain(dtype)
    first = plain_results(case, side, case.tasks, dtype)
    if case.change.apply is not None:
        case.change.apply(side)
    tasks = case.tasks if case.change.tasks is None else case.change.tasks
    return [first, plain_results(case, side, tasks, dtype)]
