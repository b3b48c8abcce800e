"""An update rule that is learned: one small LSTM for every coordinate (Andrychowicz et al. 2016).

    u_t, s_{t+1} = m_phi(grad f(theta_t), s_t),    theta_{t+1} = theta_t + u_t

All coordinates of all tasks share the weights phi; each has a hidden state s of its own. So the
rule is small, it does not depend on the order of the coordinates, and it fits a network of any
size. In a layer with input x, with sigma the sigmoid and products taken elementwise,

    i, f, o = sigma(W (x, h) + b),    g = tanh(W (x, h) + b)        (each its own rows of W and b)
    c' = f c + i g,    h' = o tanh(c')

and the update is a linear function of the last layer's h', times `scale`.

Coordinates lie side by side in the last axis, so that each gate is one block of memory. Every tanh
is written as 1 - 2 sigma(-2 a): all gates of a layer are then one product and one sigmoid, which
the processor does several times faster than a tanh.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from metanotes._ground.checks import positive
from metanotes.theta import Theta
from metanotes.update_rules import State, UpdateRule

COLUMNS = 8192  # coordinates worked on at once, at most: few enough for the processor's cache


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
        x = flat[None] if self.preprocess is None else log_and_sign(flat, self.preprocess)
        if self.fused:
            u, *after = _Step.apply(self.scale, x, *before, *phi)
        else:
            u, *after = self._plainly(x, before)
        parts = u.split([g.numel() for g in grads.values()])
        updates = {
            name: part.view(g.shape).to(g.dtype)
            for (name, g), part in zip(grads.items(), parts, strict=True)
        }
        return updates, (dict(zip(names, after, strict=True)),)

    def _plainly(self, x: Tensor, state: list[Tensor]) -> list[Tensor]:
        """The equations above, as they stand."""
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
    """A step of the rule. It keeps x and the states, and finds the gates anew.

    `_Step.apply(scale, x, h0, c0, h1, c1, ..., weights, biases, out_weight, out_bias)` gives the
    update `[C]` and the next states.

    Names: the gates of a layer are i, f, o and s = sigma(-2 a), so that g = 1 - 2 s, and s_c is
    sigma(-2 c') likewise; `dh` is the derivative by h.
    """

    @staticmethod
    def forward(ctx: Any, scale: float, x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        state, weights, biases, out_weight, out_bias = _parts(tensors)
        u, after = torch.empty_like(x[0]), [torch.empty_like(t) for t in state]
        joined = _joined(weights, biases)
        for at in _columns(len(u)):
            below = x[:, at]
            for layer, weight in enumerate(joined):
                h, c, new_h, new_c = (t[:, at] for t in _layer(layer, state, after))
                i, f, o, s = _gates(weight, _input(below, h))
                torch.addcmul(i, i, s, value=-2, out=new_c).addcmul_(f, c)  # i (1 - 2 s) + f c
                torch.addcmul(o, o, _sigmoid(new_c), value=-2, out=new_h)
                below = new_h
            torch.mv(below.T, scale * out_weight, out=u[at])
        ctx.save_for_backward(x, *tensors, *after)
        ctx.scale = scale
        return u.add_(scale * out_bias), *after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, du: Tensor, *dafter: Tensor) -> tuple[Tensor | None, ...]:
        count = len(dafter)
        x, *tensors = ctx.saved_tensors[:-count]
        after = ctx.saved_tensors[-count:]
        state, weights, biases, out_weight, _ = _parts(tensors)
        need_x, need_state = ctx.needs_input_grad[1], any(ctx.needs_input_grad[2:][:count])
        dx = torch.empty_like(x) if need_x else None
        dstate = [torch.empty_like(t) if need_state else t for t in state]  # t: never used
        joined, slopes = _joined(weights, biases), [_rows_g(w, 4) for w in weights]
        djoined = [torch.zeros_like(t) for t in joined]
        dout_weight = torch.zeros_like(out_weight)
        for at in _columns(len(du)):
            dout_weight.addmv_(after[-2][:, at], du[at], alpha=ctx.scale)
            dbelow = torch.outer(ctx.scale * out_weight, du[at])
            for layer in reversed(range(len(joined))):
                h, c, _, new_c = (t[:, at] for t in _layer(layer, state, after))
                below = (after[2 * layer - 2] if layer else x)[:, at]
                z = _input(below, h)
                gates, s_c = _gates(joined[layer], z), _sigmoid(new_c)
                i, f, o, s = gates
                dh = dbelow.add_(dafter[2 * layer][:, at])
                dc = dafter[2 * layer + 1][:, at].add(_by_sigmoid(dh * o, s_c), alpha=4)
                da = torch.empty_like(gates)  # first by i, f, o and g, then by what is in them
                torch.addcmul(dc, dc, s, value=-2, out=da[0])
                torch.mul(dc, c, out=da[1])
                torch.addcmul(dh, dh, s_c, value=-2, out=da[2])
                torch.mul(dc, i, out=da[3])
                da = _by_sigmoid(da, gates, grad_input=da).flatten(0, 1)  # a fourth of it in g:
                djoined[layer] += _product(da, z.T)  # (tanh a)' = 4 s (1 - s)
                dbelow, dh = _product(slopes[layer].T, da).tensor_split([len(below)])
                if need_state:
                    dstate[2 * layer][:, at] = dh
                    torch.mul(dc, f, out=dstate[2 * layer + 1][:, at])
            if dx is not None:
                dx[:, at] = dbelow
        states = dstate if need_state else [None] * count
        djoined = [_rows_g(t, 4) for t in djoined]
        dweights, dbiases = [t[:, :-1] for t in djoined], [t[:, -1] for t in djoined]
        return None, dx, *states, *dweights, *dbiases, dout_weight, ctx.scale * du.sum()


def _parts(tensors: Any) -> tuple[Any, Any, Any, Tensor, Tensor]:
    """The states, weights and biases of n layers (2 n, n and n tensors), and the last two."""
    n = (len(tensors) - 2) // 4
    return tensors[: 2 * n], tensors[2 * n : 3 * n], tensors[3 * n : 4 * n], *tensors[-2:]


def _columns(count: int) -> list[slice]:
    """Parts of equal size."""
    parts = -(-count // COLUMNS)
    edges = [count * n // parts for n in range(parts + 1)]
    return [slice(*pair) for pair in pairwise(edges)]


def _layer(layer: int, state: Any, after: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """h and c before a step, and after it."""
    k = 2 * layer
    return state[k], state[k + 1], after[k], after[k + 1]


def _joined(weights: Any, biases: Any) -> list[Tensor]:
    """W and b of each layer side by side, the rows g times -2: for sigma(-2 a) there."""
    both = (torch.cat((w, b[:, None]), dim=1) for w, b in zip(weights, biases, strict=True))
    return [_rows_g(t, -2) for t in both]


def _rows_g(weight: Tensor, by: float) -> Tensor:
    """Weights, the rows g multiplied."""
    *others, g = weight.chunk(4)
    return torch.cat((*others, by * g))


def _input(x: Tensor, h: Tensor) -> Tensor:
    """(x, h, 1)."""
    return torch.cat((x, h, torch.ones_like(h[:1])))


def _gates(weight: Tensor, z: Tensor) -> Tensor:
    """i, f, o and s, `[4, H, columns]`."""
    return _product(weight, z, sigmoid=True).view(4, -1, z.shape[1])


def _sigmoid(c: Tensor) -> Tensor:
    """sigma(-2 c), which is (1 - tanh c) / 2."""
    return (-2 * c).sigmoid_()


def _by_sigmoid(d: Tensor, s: Tensor, **out: Tensor) -> Tensor:
    """d s (1 - s), the derivative by what the sigmoid s was taken of."""
    backward = torch.ops.aten.sigmoid_backward
    return backward.grad_input(d, s, **out) if out else backward.default(d, s)


def _product(a: Tensor, b: Tensor, sigmoid: bool = False) -> Tensor:
    """a @ b, or the sigmoid of it.

    In float32 on a processor by oneDNN: torch.mm asks MKL, which leaves half of the width of an
    AMD processor's vector units unused.
    """
    if a.dtype == torch.float32 and a.device.type == "cpu" and torch.backends.mkldnn.is_available():
        after = "sigmoid" if sigmoid else "none"
        return torch.ops.mkldnn._linear_pointwise.default(a, b.T, None, after, [], "")
    return (a @ b).sigmoid_() if sigmoid else a @ b
