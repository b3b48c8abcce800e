"""A learned rule in an ordinary training loop, where a `torch.optim.Optimizer` would stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from metanotes._ground.checks import positive
from metanotes.methods.optimizers.function_values import check_rule
from metanotes.update_rules import UpdateRule

# Of torch's optimizers.
SETTINGS = (
    "betas",
    "eps",
    "momentum",
    "weight_decay",
    "dampening",
    "nesterov",
    "amsgrad",
    "maximize",
)


class LearnedOptimizer(Optimizer):
    """Trains a network by an update rule, learned or not.

    The rule's own weights stay as they are. `state_dict` holds them with the hidden state of every
    parameter, so that training goes on exactly where it was saved.

    Args:
        params: parameters, or groups of them, as of any optimizer. A group may have a rule and an
            lr of its own.
        rule: makes a step of a gradient.
        lr: what the updates are multiplied with, above 0; for schedulers, and for networks whose
            steps should be smaller than those that the rule was trained for.

    Raises:
        TypeError: `params` is a module.
        ValueError: an lr that is not above 0, something that is no rule, a setting of a group that
            would have no effect, or complex parameters.

    >>> from metanotes import LSTMRule
    >>> model = torch.nn.Linear(3, 1)
    >>> optimizer = LearnedOptimizer(model.parameters(), LSTMRule())
    >>> for _ in range(2):
    ...     loss = model(torch.ones(8, 3)).square().mean()
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     optimizer.step()
    >>> len(optimizer.state_dict()["state"])                # of weight and bias
    2
    """

    def __init__(self, params: Iterable[Any], rule: UpdateRule, lr: float = 1.0) -> None:
        if isinstance(params, nn.Module):
            raise TypeError(f"params is a {type(params).__name__}; give its .parameters()")
        super().__init__(params, {"rule": rule, "lr": positive("lr", lr)})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        check_rule(param_group.get("rule", self.defaults["rule"]))
        positive("lr", param_group.get("lr", self.defaults["lr"]))
        unheeded = [k for k in SETTINGS if param_group.get(k)]
        if unheeded:
            raise ValueError(
                f"a group of parameters sets {unheeded}, which would have no effect: the rule "
                "makes the step, and has such settings itself"
            )
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            if not p.is_floating_point():
                raise ValueError(f"a parameter {list(p.shape)} is of {p.dtype}: real numbers only")

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient.

        Args:
            closure: works out the loss and its gradient anew, and returns the loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            rule, lr = group["rule"], group["lr"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p.grad.is_sparse:
                    raise RuntimeError("a learned rule takes dense gradients; sparse=False")
                own = self.state[p]
                if "rule" not in own:
                    own["rule"] = rule.init({"p": p[None]})  # a task axis of one
                updates, own["rule"] = rule({"p": p.grad[None]}, own["rule"])
                p.add_(updates["p"][0], alpha=lr)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """As of any optimizer; in place of each group's rule, its weights."""
        state = super().state_dict()
        for group in state["param_groups"]:
            group["rule"] = group["rule"].state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave; the rules' weights are loaded too.

        Raises:
            ValueError: the groups differ, or a rule has weights of other names or shapes.
        """
        rules = [group["rule"] for group in self.param_groups]
        saved = [group["rule"] for group in state_dict["param_groups"]]
        if len(saved) != len(rules):
            raise ValueError(
                f"the saved state is of {len(saved)} groups of parameters, this optimizer has "
                f"{len(rules)}"
            )
        for number, (rule, weights) in enumerate(zip(rules, saved, strict=True)):
            mine, theirs = _shapes(rule.state_dict()), _shapes(weights)
            if mine != theirs:
                raise ValueError(
                    f"the rule saved for group {number} has the weights {theirs}, this one's has "
                    f"{mine}: make it with the same arguments first"
                )
        groups = [
            {**group, "rule": rule}
            for group, rule in zip(state_dict["param_groups"], rules, strict=True)
        ]
        super().load_state_dict({**state_dict, "param_groups": groups})
        for group, rule, weights in zip(self.param_groups, rules, saved, strict=True):
            rule.load_state_dict(weights)
            group["rule"] = rule  # not the copy that torch makes of a group
        parameters = [p for group in self.param_groups for p in group["params"]]
        numbers = [number for group in groups for number in group["params"]]
        for p, number in zip(parameters, numbers, strict=True):
            # torch casts states to the type of their parameter; a rule's are of its own.
            for name, value in state_dict["state"].get(number, {}).items():
                self.state[p][name] = tree_map(
                    lambda t, p=p: t.detach().to(p.device, copy=True) if torch.is_tensor(t) else t,
                    value,
                )


def _shapes(weights: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in weights.items()}
