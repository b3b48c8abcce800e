"""A hyper-representation: phi is what the inner problem holds fixed (Franceschi et al. 2018).

    inner:  theta_0 = 0,  theta_{t+1} = theta_t - alpha grad l(theta_t; body(x_train), y_train)
    outer:  L(phi) = sum_n l^n(theta_k^n; body(x_test), y_test),    phi = body

The inner variable theta is a linear head, made anew for every task; the outer one is the
representation that it stands on. Nothing of phi belongs to a class, so that a body which was
trained on 20 classes at a time serves tasks of 5 as well.
"""

from __future__ import annotations

from typing import Unpack

from torch import nn

from metanotes.inner_loop_learner import HeadSettings, InnerLoopLearner
from metanotes.nets import CosineHead
from metanotes.theta.parameters import Theta, check_head
from metanotes.update_rules import SGD, step_size


class HyperRepresentation(InnerLoopLearner):
    """Learn a representation on which k steps of gradient descent from a zero head do best.

    On the map:
        phi: a body
        adapts: a head from zero, k steps
        outer loss: of the query set, through the steps
        needs: second derivatives, of the head alone

    Args:
        model: an `nn.Sequential`: the last module is the head, which starts each task at zero
            whatever weights it has, whose gradient is zero; those before it are the body,
            phi. To test with other ways, give the same body another head:
            `nn.Sequential(*model[:-1], nn.Linear(features, ways))`.
        inner_lr: the inner step size alpha, above 0.
        steps: inner steps k in training; `adapt` and `evaluate` may take more.
        loss: of one task, inside and outside; `metanotes.mse` for regression.
        first_order: hold the inner gradients constant.
        batch: see `InnerLoopLearner`.
        keep_graph, checkpoint, record, compile, group: see `metanotes.engine.Options`.

    Raises:
        ValueError: the model is no such `nn.Sequential`, its head has no parameters or cannot start
            at zero; or see `InnerLoopLearner`.

    Source: Franceschi, Frasconi, Salzo, Grazzi and Pontil, "Bilevel Programming for Hyperparameter
    Optimization and Meta-Learning", ICML 2018, section 4.

    >>> from metanotes import HyperRepresentation
    >>> from metanotes.data import episodes, glyphs
    >>> from metanotes.nets import conv4
    >>> learner = HyperRepresentation(conv4(ways=20), inner_lr=0.1, steps=5)
    >>> tasks = episodes(glyphs("background"), ways=5, shots=1, queries=5)(4)
    >>> five = HyperRepresentation(
    ...     nn.Sequential(*learner.model[:-1], nn.Linear(256, 5)), inner_lr=0.1, steps=5
    ... )
    >>> {name: tuple(t.shape) for name, t in five.adapt(tasks.support).items()}
    {'13.weight': (4, 5, 256), '13.bias': (4, 5)}
    """

    def __init__(
        self,
        model: nn.Sequential,
        inner_lr: float,
        steps: int = 1,
        **settings: Unpack[HeadSettings],
    ) -> None:
        rule, head = SGD(step_size("inner_lr", inner_lr)), check_head(model)
        if isinstance(head, CosineHead):
            raise ValueError(
                "the head starts at zero, and takes the directions of its weights, which zero has "
                "not: take one nn.Linear"
            )
        super().__init__(model, rule, steps, adapts=head, **settings)

    def phi(self) -> Theta:
        """Where the head starts: at zero, whatever its weights; so their gradient is zero, too."""
        return {name: 0 * p for name, p in super().phi().items()}
