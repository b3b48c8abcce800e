"""Meta-Weight-Net: a small network says from an example's loss what the example counts.

    theta'(phi) = theta - alpha 1/n sum_i V(l_i(theta); phi) grad l_i(theta)                     (1)
    L(phi) = L_val(theta'(phi))                                                                  (2)
    theta <- theta - alpha 1/n sum_i V(l_i(theta); phi) grad l_i(theta)    with the new phi      (3)

V has one number in and one between 0 and 1 out. Large losses may mean flipped labels, where V
should fall, or rare classes, where it should rise; the clean examples are to tell which.

Source: Shu et al., "Meta-Weight-Net: Learning an Explicit Mapping for Sample Weighting", NeurIPS
2019, equations 3 to 5 and algorithm 1.
"""

from __future__ import annotations

from torch import Tensor, nn

from metanotes.learner import Loss, cross_entropy
from metanotes.methods.datapolicy.lookahead import LookaheadLearner
from metanotes.nets import mlp
from metanotes.task import Inputs
from metanotes.theta.parameters import Theta


class MetaWeightNet(LookaheadLearner):
    """A model whose examples are weighted by a learned function of their losses.

    On the map:
        phi: what an example of a given loss counts
        adapts: a model, a step ahead
        outer loss: of clean examples, after the step
        needs: second derivatives; a few clean examples

    Args:
        model: any module; its parameters are theta.
        inner_lr: alpha, the size of the step ahead, above 0.
        policy: V, from losses `[N, 1]` to weights `[N, 1]`; by default the paper's, 100 hidden
            units and a sigmoid. Its parameters are phi.
        loss: from outputs `[N, ...]` and targets `[N]` or `[N, ...]` to a scalar.

    `meta_train` needs an optimizer for each of the turns `"policy"` and `"model"`.

    Raises:
        TypeError, ValueError: see `LookaheadLearner`; in use, a policy that gives another shape.

    Source: see the module's.

    >>> import torch
    >>> from metanotes import Batch, Task, meta_train
    >>> x, y = torch.randn(1, 100, 5), torch.randint(3, (1, 100))
    >>> tasks = Task(Batch(x, y), Batch(x[:, :10], y[:, :10]))
    >>> learner = MetaWeightNet(nn.Linear(5, 3), inner_lr=0.1)
    >>> optimizers = {
    ...     "policy": torch.optim.Adam(learner.policy.parameters(), lr=1e-3),
    ...     "model": torch.optim.SGD(learner.model.parameters(), lr=0.1),
    ... }
    >>> history = meta_train(
    ...     learner, lambda T: tasks, 3, tasks=1, optimizer=optimizers, progress=False
    ... )
    >>> learner.weights(torch.tensor([0.1, 2.3])).shape      # of examples with these losses
    torch.Size([2])
    """

    def __init__(
        self,
        model: nn.Module,
        inner_lr: float,
        policy: nn.Module | None = None,
        *,
        loss: Loss = cross_entropy,
    ) -> None:
        if policy is None:
            policy = nn.Sequential(mlp(1, 100, 1), nn.Sigmoid())
        super().__init__(model, inner_lr, policy, loss=loss)

    def weights(self, losses: Tensor) -> Tensor:
        """V of losses `[N]`, which are held constant: `[N]`."""
        weights = self.policy(losses.detach()[:, None])
        if weights.shape != (len(losses), 1):
            raise ValueError(
                f"policy gave {list(weights.shape)} for losses {[len(losses), 1]}: it must give "
                "each example a weight, of the same shape"
            )
        return weights.squeeze(1)

    def training_loss(self, theta: Theta, x: Inputs, y: Tensor, learns: bool) -> Tensor:
        """1/n sum_i V(l_i) l_i of one minibatch."""
        losses = self.losses_of_each(theta, x, y)
        weights = self.weights(losses)
        return ((weights if learns else weights.detach()) * losses).mean()
