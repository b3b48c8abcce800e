"""A step of the LSTM rule and its derivative, by hand: fast, and it holds nothing but the states.

    i, f, o = sigma(W (x, h) + b),    g = tanh(W (x, h) + b)        (each its own rows of W and b)
    c' = f c + i g,    h' = o tanh(c'),    u = scale (w . h' + b) of the last layer

Every tanh is written as 1 - 2 sigma(-2 a): all gates of a layer are then one product and one
sigmoid, which the processor does several times faster than a tanh.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

COLUMNS = 8192  # coordinates worked on at once, at most: few enough for the processor's cache


class FusedStep(torch.autograd.Function):
    """A step of the rule. It keeps x and the states, and finds the gates anew.

    `FusedStep.apply(scale, x, h0, c0, h1, c1, ..., weights, biases, out_weight, out_bias)` gives
    the update `[C]` and the next states.

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
    def backward(ctx: Any, du: Tensor, *dafter: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # what follows would count as constant, without a word
            raise RuntimeError(
                "LSTMRule(fused=True) can be differentiated once (create_graph=True asks for more):"
                " set fused=False"
            )
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
    edges = [count * n // parts for n in range(parts + 1)] if parts else []
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
