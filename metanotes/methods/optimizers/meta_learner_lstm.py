"""The meta-learner LSTM: phi is where to start and how to step (Ravi and Larochelle 2017).

    c_t = f_t c_{t-1} + i_t c~_t,    c_t = theta_t,    c~_t = -grad l(theta_{t-1})            (1)
    i_t = sigmoid(w_i (h_t, theta_{t-1}, i_{t-1}) + b_i)
    f_t = sigmoid(w_f (h_t, theta_{t-1}, f_{t-1}) + b_f)                                      (2)
    h_t = LSTM(grad l, l; h_{t-1})

(1) is the update of an LSTM's cell, with the parameters theta for its cell. With f = 1 and
i = alpha it is gradient descent. The start c_0 is learned, and all coordinates share the weights
of (2). Gradient and loss enter the gates as in `log_and_sign`, and are held constant.

The inner loop hands a rule gradients only. The loss is one too: that of (1 + s) l(theta) with
respect to s, at s = 0. So the learner gives theta one more entry, which stays 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from metanotes._ground import checks
from metanotes.engine import Computing
from metanotes.inner_loop_learner import InnerLoopLearner
from metanotes.learner import Loss, cross_entropy
from metanotes.methods.optimizers.lstm_rule import check_preprocess, log_and_sign
from metanotes.task import Inputs
from metanotes.theta.parameters import Part, Theta
from metanotes.update_rules import State, UpdateRule

LOSS = "l(theta)"  # the name of s among the parameters


class GatedRule(UpdateRule):
    """Equations (1) and (2) as an update rule: u_t = (f_t - 1) theta - i_t g_t.

    Gradients must have the loss beside them, `{..., "l(theta)": [T]}`; its update is 0. Before the
    first step i = 0 and f = 1.

    Args:
        hidden: units H of the first LSTM, at least 1.
        preprocess: p of `log_and_sign`.
        seed: of the initial weights, uniform in +-0.01; b_f is uniform in [4, 5] and b_i in
            [-5, -4], so that the rule starts near gradient descent with a rate of about 0.01.

    Raises:
        ValueError: `hidden` or `preprocess` out of its range, or gradients without the loss, or of
            other tensors than the state.

    Source: Ravi and Larochelle, "Optimization as a Model for Few-Shot Learning", ICLR 2017,
    section 3; the two layers and the initial values are those of their code.

    >>> rule = GatedRule(hidden=20)
    >>> theta = {"w": torch.zeros(3, 4, 5), "l(theta)": torch.zeros(3)}                 # 3 tasks
    >>> grads = {"w": torch.ones(3, 4, 5), "l(theta)": torch.tensor([0.5, 1.0, 2.0])}
    >>> updates, state = rule(grads, rule.init(theta))
    >>> updates["w"].shape, bool((updates["w"] < 0).all())
    (torch.Size([3, 4, 5]), True)
    """

    def __init__(self, *, hidden: int = 20, preprocess: float = 10.0, seed: int = 0) -> None:
        super().__init__()
        hidden = checks.count("hidden", hidden)
        self.hidden, self.preprocess = hidden, check_preprocess(preprocess)
        # Rows: input, forget and output gate, candidate; columns: gradient and loss, 2 each, and h.
        self.weight = nn.Parameter(torch.empty(4 * hidden, 4 + hidden))
        self.bias = nn.Parameter(torch.empty(4 * hidden))
        # Rows: the gates i and f; columns: h, theta, and the gate itself one step before.
        self.gate_weight = nn.Parameter(torch.empty(2, hidden + 2))
        self.gate_bias = nn.Parameter(torch.empty(2))
        generator = torch.Generator().manual_seed(checks.seed(seed))
        with torch.no_grad():
            for p in self.parameters():
                p.uniform_(-0.01, 0.01, generator=generator)
            self.gate_bias[0].uniform_(-5, -4, generator=generator)
            self.gate_bias[1].uniform_(4, 5, generator=generator)

    def init(self, theta: Theta) -> State:
        """c_0 = theta, the gates `[2, C]`, and the first LSTM's h and c, `[H, C]`, at 0."""
        cell = {name: t for name, t in theta.items() if name != LOSS}
        count = sum(t.numel() for t in cell.values())
        if not cell:
            raise ValueError(f"theta has no tensor beside {LOSS!r}")
        like = next(iter(cell.values()))
        zeros = like.new_zeros(self.hidden, count, dtype=self.weight.dtype)
        gates = like.new_zeros(2, count, dtype=self.weight.dtype)
        gates[1] = 1.0
        return cell, {"gates": gates, "h": zeros, "c": zeros}

    def forward(self, grads: Theta, state: State) -> tuple[Theta, State]:
        self._check(grads, state)
        cell, memory = state
        own = self.weight.dtype
        g = torch.cat([grads[name].reshape(-1) for name in cell]).to(own)  # [C]
        loss = torch.cat([_each(grads[LOSS], grads[name]) for name in cell]).to(own)
        theta = torch.cat([t.reshape(-1) for t in cell.values()]).to(own)
        seen = torch.cat([log_and_sign(g, self.preprocess), log_and_sign(loss, self.preprocess)])
        h, c = self._lstm(seen, memory["h"], memory["c"])
        on_h, on_theta, on_gate = self.gate_weight.split([self.hidden, 1, 1], 1)
        gates = torch.sigmoid(
            on_h @ h + on_theta * theta + on_gate * memory["gates"] + self.gate_bias[:, None]
        )  # [2, C]
        i, f = gates
        flat = (f - 1) * theta - i * g
        parts = flat.split([t.numel() for t in cell.values()])
        updates = {
            name: u.view(t.shape).to(t.dtype)
            for (name, t), u in zip(cell.items(), parts, strict=True)
        }
        after = {name: t + updates[name] for name, t in cell.items()}
        updates[LOSS] = torch.zeros_like(grads[LOSS])
        return {name: updates[name] for name in grads}, (after, {"gates": gates, "h": h, "c": c})

    def _lstm(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """A step of the first LSTM: x `[4, C]`; h and c `[H, C]`."""
        a = self.weight @ torch.cat([x, h]) + self.bias[:, None]  # [4H, C]
        i, f, o = a[: 3 * self.hidden].sigmoid().chunk(3)
        c = f * c + i * a[3 * self.hidden :].tanh()
        return o * c.tanh(), c

    def _check(self, grads: Theta, state: State) -> None:
        """Refuse gradients without the loss, and those of other tensors than the state."""
        if LOSS not in grads:
            raise ValueError(
                f"the gradients {list(grads)} come without the loss, {LOSS!r}: this rule is for "
                "MetaLearnerLSTM"
            )
        cell = state[0]
        shapes = [
            {name: tuple(t.shape) for name, t in tensors.items() if name != LOSS}
            for tensors in (cell, grads)
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"the state is of {shapes[0]} and the gradients of {shapes[1]}: start with "
                "rule.init(theta), of the theta that is updated"
            )

    def extra_repr(self) -> str:
        return f"hidden={self.hidden}, preprocess={self.preprocess}"


def _each(loss: Tensor, like: Tensor) -> Tensor:
    """The loss of its task, `[T]`, for every coordinate of a tensor `[T, ...]`, flat."""
    return loss.view(-1, *[1] * (like.ndim - 1)).expand_as(like).reshape(-1)


class MetaLearnerLSTM(InnerLoopLearner):
    """Learn the start and the gates of k steps, after which the loss is lowest.

    On the map:
        phi: where all weights start, and the gates of an update rule
        adapts: all weights, k steps
        outer loss: of the query set, through the gates
        needs: first derivatives, as published; second ones with first_order=False

    Args:
        model: any module; its parameters are c_0, a part of phi. See `InnerLoopLearner`.
        steps: inner steps k in training; `adapt` and `evaluate` may take more.
        loss: of one task, inside and outside; `metanotes.mse` for regression.
        first_order: hold gradients and losses constant, as published.
        adapts, batch: see `InnerLoopLearner`.
        hidden: units of the first LSTM.
        seed: of the rule's initial weights.
        keep_graph, checkpoint, record, compile, group: see `metanotes.engine.Options`.

    Raises:
        ValueError: see `InnerLoopLearner` and `GatedRule`.

    Source: Ravi and Larochelle, "Optimization as a Model for Few-Shot Learning", ICLR 2017.

    >>> from metanotes import mse
    >>> from metanotes.data import sinusoid
    >>> from metanotes.nets import mlp
    >>> learner = MetaLearnerLSTM(mlp(1, 40, 40, 1), steps=5, loss=mse)
    >>> learner(sinusoid(shots=10, queries=10, seed=0)(25)).shape
    torch.Size([25])
    >>> sum(p.numel() for p in learner.rule.parameters())       # however large the model is
    2046
    """

    rule: GatedRule

    def __init__(
        self,
        model: nn.Module,
        steps: int = 5,
        *,
        loss: Loss = cross_entropy,
        first_order: bool = True,
        adapts: Part | Sequence[Part] | None = None,
        batch: int | None = None,
        hidden: int = 20,
        seed: int = 0,
        **computing: Unpack[Computing],
    ) -> None:
        like = next(model.parameters(), torch.zeros(()))
        if LOSS in dict(model.named_parameters()):
            raise ValueError(f"a parameter of the model is called {LOSS!r}: rename it")
        super().__init__(
            model,
            GatedRule(hidden=hidden, seed=seed).to(like.device, like.dtype),
            steps,
            loss=loss,
            first_order=first_order,
            adapts=adapts,
            batch=batch,
            **computing,
        )

    def phi(self) -> Theta:
        """c_0 by name, and s = 0 beside it."""
        start = super().phi()
        s = next(iter(start.values())).new_zeros(()).requires_grad_()
        return {**start, LOSS: s}

    def task_loss(
        self, theta: Theta, x: Inputs, y: Tensor, model: nn.Module | None = None
    ) -> Tensor:
        """(1 + s) l(theta) of one task, whose derivative by s is the loss."""
        return (1 + theta[LOSS]) * super().task_loss(theta, x, y, model)

    def outputs(self, theta: Theta, x: Inputs, model: nn.Module | None = None) -> Tensor:
        """f_theta(x) of one task, which s has no part in."""
        return super().outputs({n: t for n, t in theta.items() if n != LOSS}, x, model)
