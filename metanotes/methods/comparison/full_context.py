"""Full-context embeddings: features in sight of the whole support set (Vinyals et al. 2016).

    g(x_i, S) = z_i + h->_i + h<-_i,    h->, h<- = an LSTM over z_1 ... z_N, and back          (1)
    h^_k, c_k = LSTM([z, r_{k-1}], h_{k-1}, c_{k-1}),    h_k = h^_k + z                        (2)
    r_k = sum_i softmax_i(h_k . g(x_i)) g(x_i)                                                 (3)
    f(x, S) = h_K,    h_0 = r_0 = c_0 = 0

z is the body's feature of an example. (1) depends on the order in which the support examples stand:
it is the sampler's, which draws the classes of a task anew for every task.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metanotes._ground.checks import counts
from metanotes._ground.randomness import seeded


class FullContext(nn.Module):
    """f and g of a `MatchingNetwork`, from the features of its body.

    Args:
        features: F, how many the body gives; see `metanotes.nets.feature_count`.
        steps: K, how often a query reads the support set.
        seed: of the initial weights (PyTorch's default initialisation).

    Raises:
        ValueError: a count below 1.

    Source: Vinyals et al., "Matching Networks for One Shot Learning", NeurIPS 2016, section 2.1.2
    and appendix A.

    >>> from metanotes import MatchingNetwork
    >>> from metanotes.nets import conv4
    >>> learner = MatchingNetwork(conv4(None), ways=5, full_context=FullContext(256, steps=3))
    >>> z = torch.rand(4, 5, 256)                              # T, N, F
    >>> g = learner.full_context.g(z)
    >>> learner.full_context.f(torch.rand(4, 15, 256), g).shape
    torch.Size([4, 15, 256])
    """

    def __init__(self, features: int, steps: int = 5, seed: int = 0) -> None:
        super().__init__()
        counts(features=features, steps=steps)
        self.steps = steps
        with seeded(seed):
            self.both_ways = nn.LSTM(features, features, batch_first=True, bidirectional=True)
            self.gates = nn.Linear(3 * features, 4 * features)  # of z, r and h

    def g(self, z: Tensor) -> Tensor:
        """(1): of the support examples, `[T, N, F]` to `[T, N, F]`."""
        there, back = self.both_ways(z)[0].chunk(2, 2)
        return z + there + back

    def f(self, z: Tensor, g: Tensor) -> Tensor:
        """(2) and (3): of queries `[T, M, F]`, beside the support examples' g `[T, N, F]`."""
        h = r = c = torch.zeros_like(z)
        for _ in range(self.steps):
            i, forget, new, o = self.gates(torch.cat([z, r, h], 2)).chunk(4, 2)
            c = forget.sigmoid() * c + i.sigmoid() * new.tanh()
            h = o.sigmoid() * c.tanh() + z
            r = (h @ g.mT).softmax(2) @ g
        return h

    def extra_repr(self) -> str:
        return f"steps={self.steps}"
