"""ANIL, almost no inner loop: phi is a body and where its head starts (Raghu et al. 2020).

    z = body(x),    theta_0 = head,    theta_{t+1} = theta_t - alpha grad l(theta_t; z_train, y)
    L(phi) = sum_n l^n(theta_k^n; z_test, y),    phi = (body, head)

MAML's inner loop moves all of phi; here only the head moves, so that the body works once on every
image, however many steps follow. Its gradient comes through the features of both sets. It is
MAML with `adapts=` the head.
"""

from __future__ import annotations

from typing import Unpack

from torch import nn

from metanotes.inner_loop_learner import HeadSettings
from metanotes.methods.initialization.maml import MAML
from metanotes.theta.parameters import check_head


class ANIL(MAML):
    """Learn a representation on which k steps of gradient descent on the head alone do best.

    On the map:
        phi: a body, and where its head starts
        adapts: the head, k steps
        outer loss: of the query set, through the steps
        needs: second derivatives, of the head alone

    Args:
        model: an `nn.Sequential` of at least two modules: the last is the head, which adapts, and
            those before it are the body, which does not. All their parameters are phi. Any body
            and head make one: `nn.Sequential(body, head)`.
        inner_lr: the inner step size alpha, above 0.
        steps: inner steps k in training; `adapt` and `evaluate` may take more.
        loss: of one task, inside and outside; `metanotes.mse` for regression.
        first_order: hold the inner gradients constant.
        batch: see `InnerLoopLearner`.
        keep_graph, checkpoint, record, compile, group: see `metanotes.engine.Options`.

    Raises:
        ValueError: the model is no such `nn.Sequential`, its head has nothing to adapt; or see
            `InnerLoopLearner`.

    Source: Raghu, Raghu, Bengio and Vinyals, "Rapid Learning or Feature Reuse? Towards
    Understanding the Effectiveness of MAML", ICLR 2020.

    >>> from metanotes import ANIL
    >>> from metanotes.data import episodes, glyphs
    >>> from metanotes.nets import conv4
    >>> learner = ANIL(conv4(ways=5), inner_lr=0.4, steps=5)
    >>> tasks = episodes(glyphs("background"), ways=5, shots=1, queries=5)(4)
    >>> {name: tuple(t.shape) for name, t in learner.adapt(tasks.support).items()}
    {'13.weight': (4, 5, 256), '13.bias': (4, 5)}
    """

    def __init__(
        self,
        model: nn.Sequential,
        inner_lr: float,
        steps: int = 1,
        **settings: Unpack[HeadSettings],
    ) -> None:
        super().__init__(model, inner_lr, steps, adapts=check_head(model), **settings)
