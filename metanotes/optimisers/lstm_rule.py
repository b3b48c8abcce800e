"""An update rule that is learned: one small LSTM for every coordinate (Andrychowicz et al. 2016).

    u_t, s_{t+1} = m_phi(grad f(theta_t), s_t),    theta_{t+1} = theta_t + u_t

All coordinates of all tasks share the weights phi; each has a hidden state s of its own. So the
rule is small, it does not depend on the order of the coordinates, and it fits a network of any
size. In a layer with input x, with sigma the sigmoid and products taken elementwise,

    i, f, o = sigma(W (x, h) + b),    g = tanh(W (x, h) + b)        (each its own rows of W and b)
    c' = f c + i g,    h' = o tanh(c')

and the update is a linear function of the last layer's h', times `scale`.

Coordinates lie side by side in the last axis, so that each gate is one block of memory. Every tanh
is written as 2 sigma(2 a) - 1: all gates of a layer are then one product and one sigmoid, which
the processor does several times faster than a tanh.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from metanotes.update_rules import State, Theta, UpdateRule, positive

COLUMNS = 8192  # coordinates worked on at once: their gates then stay in the processor's cache


def log_and_sign(g: Tensor, p: float = 10.0) -> Tensor:
    """Two numbers of moderate size for a gradient of any size (appendix A of the paper).

        (log abs(g) / p, sgn g)    where abs(g) >= e^-p
        (-1, e^p g)                elsewhere

    The two meet at abs(g) = e^-p, in (-1, sgn g).

    Args:
        g: gradients, any shape `[...]`.
        p: sets which gradients count as small, above 0.

    Returns:
        `[2, ...]`.

    >>> log_and_sign(torch.tensor([1.0, -torch.e**-5, 0.0])).tolist()
    [[0.0, -0.5, -1.0], [1.0, -1.0, 0.0]]
    """
    size = g.abs()
    large = size >= torch.e**-p
    log = torch.where(large, size, 1.0).log() / p  # where: no infinite derivative at 0
    return torch.stack(
        (torch.where(large, log, -1.0), torch.where(large, g.sign(), torch.e**p * g))
    )


class LSTMRule(UpdateRule):
    """A coordinatewise LSTM as an update rule; its weights are phi.

    Args:
        hidden: units of a layer, H.
        layers: how many, at least 1.
        preprocess: p of `log_and_sign`; None gives the gradient to the LSTM as it is.
        scale: what the LSTM's output is multiplied with, above 0.
        fused: work out the backward pass by hand: faster, and holds only the states. Its gradient
            can be differentiated once; False leaves all to autograd.
        seed: of the initial weights, uniform in +-1/sqrt(H) as in `torch.nn.LSTMCell`.

    Raises:
        ValueError: a count below 1, or a `preprocess` or `scale` that is not above 0.

    Source: Andrychowicz et al., "Learning to learn by gradient descent by gradient descent",
    NeurIPS 2016, section 2.1 and appendix A.

    >>> rule = LSTMRule(hidden=20, layers=2)
    >>> theta = {"w": torch.zeros(3, 4, 5), "b": torch.zeros(3, 5)}             # 3 tasks
    >>> updates, state = rule({"w": torch.ones(3, 4, 5), "b": torch.ones(3, 5)}, rule.init(theta))
    >>> updates["w"].shape
    torch.Size([3, 4, 5])
    >>> [tuple(t.shape) for t in state[0].values()]     # h and c of both layers, for 75 coordinates
    [(20, 75), (20, 75), (20, 75), (20, 75)]
    """

    def __init__(
        self,
        hidden: int = 20,
        layers: int = 2,
        preprocess: float | None = 10.0,
        scale: float = 0.1,
        fused: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, count in {"hidden": hidden, "layers": layers}.items():
            if count < 1:
                raise ValueError(f"{name}={count} must be at least 1")
        if preprocess is not None:
            positive("preprocess", preprocess)
        self.hidden, self.layers, self.fused = hidden, layers, fused
        self.preprocess, self.scale = preprocess, positive("scale", scale)
        inputs = [1 if preprocess is None else 2, *[hidden] * (layers - 1)]
        # Rows: i, f, o and g, H of each. Columns: the layer's input, then its h.
        shapes = [(4 * hidden, n + hidden) for n in inputs]
        self.weights = nn.ParameterList(torch.empty(shape) for shape in shapes)
        self.biases = nn.ParameterList(torch.empty(4 * hidden) for _ in inputs)
        self.out_weight, self.out_bias = (
            nn.Parameter(torch.empty(hidden)),
            nn.Parameter(torch.empty(())),
        )
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in self.parameters():
                p.uniform_(-(hidden**-0.5), hidden**-0.5, generator=generator)

    def init(self, theta: Theta) -> State:
        """h = c = 0 in every layer, `[H, C]` for the C coordinates of all tensors and tasks."""
        count = sum(t.numel() for t in theta.values())
        zeros = next(iter(theta.values())).new_zeros(
            self.hidden, count, dtype=self.out_weight.dtype
        )
        return ({f"{part}{layer}": zeros for layer in range(self.layers) for part in "hc"},)

    def forward(self, grads: Theta, state: State) -> tuple[Theta, State]:
        flat = torch.cat([g.reshape(-1) for g in grads.values()]).to(self.out_weight.dtype)  # [C]
        names, before = list(state[0]), list(state[0].values())
        if before[0].shape[-1] != len(flat):
            raise ValueError(
                f"the state is of {before[0].shape[-1]} coordinates and the gradients have "
                f"{len(flat)}: start with rule.init(theta), of the theta that is updated"
            )
        phi = [*self.weights, *self.biases, self.out_weight, self.out_bias]
        if self.fused:
            u, *after = _Step.apply(self.preprocess, self.scale, flat, *before, *phi)
        else:
            u, *after = self._plainly(flat, before)
        parts = u.split([g.numel() for g in grads.values()])
        updates = {
            name: part.view(g.shape).to(g.dtype)
            for (name, g), part in zip(grads.items(), parts, strict=True)
        }
        return updates, (dict(zip(names, after, strict=True)),)

    def _plainly(self, g: Tensor, state: list[Tensor]) -> list[Tensor]:
        """The equations above, as they stand."""
        x = g[None] if self.preprocess is None else log_and_sign(g, self.preprocess)  # [1 or 2, C]
        after = []
        for weight, bias, h, c in zip(
            self.weights, self.biases, state[::2], state[1::2], strict=True
        ):
            i, f, o, g = (weight @ torch.cat((x, h)) + bias[:, None]).chunk(4)  # [H, C] each
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            x = o.sigmoid() * c.tanh()
            after += [x, c]
        return [self.scale * (self.out_weight @ x + self.out_bias), *after]

    def extra_repr(self) -> str:
        return (
            f"hidden={self.hidden}, layers={self.layers}, preprocess={self.preprocess}, "
            f"scale={self.scale}"
        )


class _Step(torch.autograd.Function):
    """A step of the rule. It keeps g and the states, and finds the gates anew.

    `_Step.apply(p, scale, g, h0, c0, h1, c1, ..., weights, biases, out_weight, out_bias)` gives
    the update `[C]` and the next states.
    """

    @staticmethod
    def forward(
        ctx: Any, p: float | None, scale: float, g: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        state, weights, biases, out_weight, out_bias = _parts(tensors)
        u, after = torch.empty_like(g), [torch.empty_like(t) for t in state]
        joined, ones = _joined(weights, biases), g.new_ones(1, COLUMNS)
        for at in _columns(len(g)):
            x = _features(g[at], p)
            for layer, weight in enumerate(joined):
                h, c, new_h, new_c = (t[:, at] for t in _layer(layer, state, after))
                z = torch.cat((x, h, ones[:, : x.shape[1]]))
                i, f, o, s = (weight @ z).sigmoid_().chunk(4)  # [H, columns] each
                torch.mul(f, c, out=new_c)
                new_c.addcmul_(i, s, value=2).sub_(i)  # f c + i (2 s - 1)
                torch.mul(o, _tanh(new_c), out=new_h)
                x = new_h
            torch.mv(x.T, scale * out_weight, out=u[at])
        ctx.save_for_backward(g, *tensors, *after)
        ctx.p, ctx.scale = p, scale
        return u.add_(scale * out_bias), *after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, du: Tensor, *dafter: Tensor) -> tuple[Tensor | None, ...]:
        count = len(dafter)
        g, *tensors = ctx.saved_tensors[:-count]
        after = ctx.saved_tensors[-count:]
        state, weights, biases, out_weight, _ = _parts(tensors)
        need_g, need_state = ctx.needs_input_grad[2], any(ctx.needs_input_grad[3:][:count])
        dg = torch.empty_like(g) if need_g else None
        dstate = [torch.empty_like(t) if need_state else t for t in state]  # t: never used
        joined, ones = _joined(weights, biases), g.new_ones(1, COLUMNS)
        djoined = [torch.zeros_like(t.T) for t in joined]  # transposed: the faster product
        dout_weight = torch.zeros_like(out_weight)
        for at in _columns(len(g)):
            dout_weight.addmv_(after[-2][:, at], du[at], alpha=ctx.scale)
            dx = torch.outer(ctx.scale * out_weight, du[at])  # of the h that the layer gives
            for layer in reversed(range(len(joined))):
                h, c, _, new_c = (t[:, at] for t in _layer(layer, state, after))
                x = after[2 * layer - 2][:, at] if layer else _features(g[at], ctx.p)
                z = torch.cat((x, h, ones[:, : x.shape[1]]))
                i, f, o, s = (joined[layer] @ z).sigmoid_().chunk(4)
                tanh, tanh_c = s.mul_(2).sub_(1), _tanh(new_c)
                dh = dx.add_(dafter[2 * layer][:, at])
                dc = tanh_backward(dh * o, tanh_c).add_(dafter[2 * layer + 1][:, at])
                da = z.new_empty(4, *i.shape)
                torch.mul(sigmoid_backward(dc, i), tanh, out=da[0])
                torch.mul(sigmoid_backward(dc, f), c, out=da[1])
                torch.mul(sigmoid_backward(dh, o), tanh_c, out=da[2])
                torch.mul(tanh_backward(dc, tanh), i, out=da[3])
                da = da.flatten(0, 1)  # [4 H, columns]
                djoined[layer].addmm_(z, da.T)
                dx, dh = (weights[layer].T @ da).tensor_split([len(x)])
                if need_state:
                    dstate[2 * layer][:, at] = dh
                    torch.mul(dc, f, out=dstate[2 * layer + 1][:, at])
            if dg is not None:
                dg[at] = _features_backward(dx, g[at], ctx.p)
        states = dstate if need_state else [None] * count
        dweights, dbiases = [t[:-1].T for t in djoined], [t[-1] for t in djoined]
        return None, None, dg, *states, *dweights, *dbiases, dout_weight, ctx.scale * du.sum()


sigmoid_backward = torch.ops.aten.sigmoid_backward.default  # of the result: d s (1 - s)
tanh_backward = torch.ops.aten.tanh_backward.default  # of the result: d (1 - t^2)


def _parts(tensors: Any) -> tuple[Any, Any, Any, Tensor, Tensor]:
    """The states, weights and biases of n layers (2 n, n and n tensors), and the last two."""
    n = (len(tensors) - 2) // 4
    return tensors[: 2 * n], tensors[2 * n : 3 * n], tensors[3 * n : 4 * n], *tensors[-2:]


def _columns(count: int) -> Iterator[slice]:
    return (slice(start, start + COLUMNS) for start in range(0, count, COLUMNS))


def _layer(layer: int, state: Any, after: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """h and c before a step, and after it."""
    k = 2 * layer
    return state[k], state[k + 1], after[k], after[k + 1]


def _joined(weights: Any, biases: Any) -> list[Tensor]:
    """W and b of each layer side by side, the rows g doubled: for sigma(2 a) there."""
    both = [torch.cat((w, b[:, None]), dim=1) for w, b in zip(weights, biases, strict=True)]
    for t in both:
        t[3 * len(t) // 4 :] *= 2
    return both


def _tanh(a: Tensor) -> Tensor:
    return (2 * a).sigmoid_().mul_(2).sub_(1)


def _features(g: Tensor, p: float | None) -> Tensor:
    return g[None] if p is None else log_and_sign(g, p)


def _features_backward(dx: Tensor, g: Tensor, p: float | None) -> Tensor:
    """The cotangent of g of `_features(g, p)`'s."""
    if p is None:
        return dx[0]
    return torch.where(g.abs() >= torch.e**-p, dx[0] / (p * g), torch.e**p * dx[1])
