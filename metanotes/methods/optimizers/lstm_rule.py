"""An update rule that is learned: one small LSTM for every coordinate (Andrychowicz et al. 2016).

    u_t, s_{t+1} = m_phi(grad f(theta_t), s_t),    theta_{t+1} = theta_t + u_t

All coordinates of all tasks share the weights phi; each has a hidden state s of its own. So the
rule is small, it does not depend on the order of the coordinates, and it fits a network of any
size. In a layer with input x, with sigma the sigmoid and products taken elementwise,

    i, f, o = sigma(W (x, h) + b),    g = tanh(W (x, h) + b)        (each its own rows of W and b)
    c' = f c + i g,    h' = o tanh(c')

and the update is a linear function of the last layer's h', times `scale`.

Coordinates lie side by side in the last axis, so that each gate is one block of memory.
`fused_lstm` has the same equations with their derivative, worked out by hand.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metanotes._ground import checks
from metanotes.methods.optimizers.fused_lstm import FusedStep
from metanotes.theta.parameters import Theta
from metanotes.update_rules import State, UpdateRule

LARGEST_P = 80.0  # e^p and e^-p are numbers of single precision


def log_and_sign(g: Tensor, p: float = 10.0) -> Tensor:
    """Two numbers of moderate size for a gradient of any size (appendix A of the paper).

        (log abs(g) / p, sgn g)    where abs(g) >= e^-p
        (-1, e^p g)                elsewhere

    The two meet at abs(g) = e^-p, in (-1, sgn g).

    Args:
        g: gradients, any shape `[...]`.
        p: sets which gradients count as small, above 0 and at most 80.

    Returns:
        `[2, ...]`.

    Raises:
        ValueError: p is out of its range.

    >>> log_and_sign(torch.tensor([1.0, -torch.e**-5, 0.0])).tolist()
    [[0.0, -0.5, -1.0], [1.0, -1.0, 0.0]]
    """
    if not 0 < p <= LARGEST_P:
        raise ValueError(f"p={p} must be above 0 and at most {LARGEST_P:g}")
    size = g.abs()
    large = size >= torch.e**-p
    log = torch.where(large, size, 1.0).log() / p  # where: no infinite derivative at 0
    return torch.stack(
        (torch.where(large, log, -1.0), torch.where(large, g.sign(), torch.e**p * g))
    )


def check_preprocess(p: float) -> float:
    """The p of `log_and_sign`, if it is one.

    Raises:
        ValueError: it is out of its range.
    """
    p = checks.positive("preprocess", p)
    if p > LARGEST_P:
        raise ValueError(f"preprocess={p} must be at most {LARGEST_P:g}")
    return p


class LSTMRule(UpdateRule):
    """A coordinatewise LSTM as an update rule; its weights are phi.

    Args:
        hidden: units of a layer, H, at least 1.
        layers: how many, at least 1.
        preprocess: p of `log_and_sign`; None gives the gradient to the LSTM as it is.
        scale: what the LSTM's output is multiplied with, above 0.
        fused: work out the backward pass by hand: faster, and holds only the states. The updates
            can then be differentiated once, and a further time is refused; False leaves all to
            autograd.
        seed: of the initial weights, uniform in +-1/sqrt(H) as in `torch.nn.LSTMCell`.

    Raises:
        ValueError: a count below 1, or a `preprocess` or `scale` that is out of its range.

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
        *,
        hidden: int = 20,
        layers: int = 2,
        preprocess: float | None = 10.0,
        scale: float = 0.1,
        fused: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        hidden, layers = checks.count("hidden", hidden), checks.count("layers", layers)
        self.hidden, self.layers, self.fused = hidden, layers, fused
        self.preprocess = None if preprocess is None else check_preprocess(preprocess)
        self.scale = checks.positive("scale", scale)
        inputs = [1 if preprocess is None else 2, *[hidden] * (layers - 1)]
        # Rows: i, f, o and g, H of each. Columns: the layer's input, then its h.
        shapes = [(4 * hidden, n + hidden) for n in inputs]
        self.weights = nn.ParameterList(torch.empty(shape) for shape in shapes)
        self.biases = nn.ParameterList(torch.empty(4 * hidden) for _ in inputs)
        self.out_weight, self.out_bias = (
            nn.Parameter(torch.empty(hidden)),
            nn.Parameter(torch.empty(())),
        )
        generator = torch.Generator().manual_seed(checks.seed(seed))
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
        if self.fused and not isinstance(self.scale, Tensor):  # a scale that is learned is not
            u, *after = FusedStep.apply(self.scale, x, *before, *phi)
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
