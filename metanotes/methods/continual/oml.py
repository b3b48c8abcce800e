"""Online-aware meta-learning: phi is a representation on which a stream forgets little.

    theta_0 = 0,    theta_{t+1} = theta_t - alpha grad l(theta_t; body(x_t), y_t)             (1)
    L(phi) = sum_n l(theta_k^n; body(x_remember), y_remember),    phi = body                  (2)

Along the stream (1) the body stands still and a linear head learns, one example a step, class after
class. Afterwards the head is judged on all classes (2), the early ones too, so that a body is the
better, the less the steps for one class move the scores of the others. It is a hyper-representation
whose inner problem is a stream.

Source: Javed and White, "Meta-Learning Representations for Continual Learning", NeurIPS 2019,
section 3. There the head has two layers, whose start is learned too, and what is to be remembered
also has classes from outside the stream.
"""

from __future__ import annotations

from typing import Unpack

from torch import nn

from metanotes.inner_loop_learner import HeadSettings
from metanotes.methods.continual.stream_learner import StreamLearner
from metanotes.nets import CosineHead
from metanotes.theta.parameters import Theta, check_head
from metanotes.update_rules import SGD, step_size


class OML(StreamLearner):
    """Learn a representation on which a head, from zero, learns online and does not forget.

    On the map:
        phi: a body
        adapts: a head from zero, an example a step
        outer loss: of all classes of a stream, after it
        needs: second derivatives, of the head alone

    Args:
        model: an `nn.Sequential`: the last module is the head, which starts each stream at zero
            whatever weights it has; those before it are the body, phi. For streams of other numbers
            of classes, give the same body another head.
        inner_lr: the step size alpha along the stream, above 0.
        replay, batch: see `StreamLearner`.
        loss, first_order: see `InnerLoopLearner`.
        keep_graph, checkpoint, record, compile, group: see `metanotes.engine.Options`.

    Raises:
        ValueError: the model is no such `nn.Sequential`, or its head has no parameters, is of
            several layers, frozen in part or tied to the body, so that it could not start at zero;
            or see `StreamLearner`.

    Source: see the module's.

    >>> from metanotes import OML
    >>> from metanotes.data import episodes, glyphs
    >>> from metanotes.nets import mlp
    >>> stream = episodes(glyphs("background"), ways=10, shots=3, queries=2)(4)
    >>> body = nn.Sequential(nn.Flatten(), mlp(784, 32, 32), nn.ReLU())
    >>> learner = OML(nn.Sequential(body, nn.Linear(32, 10)), inner_lr=0.1)
    >>> learner(stream).shape                                 # on all ten classes, after 30 steps
    torch.Size([4])
    """

    def __init__(
        self,
        model: nn.Sequential,
        inner_lr: float,
        *,
        replay: int = 0,
        **settings: Unpack[HeadSettings],
    ) -> None:
        rule, head = SGD(step_size("inner_lr", inner_lr)), check_head(model)
        refuse_standing_still(model, head)
        super().__init__(model, rule, replay=replay, adapts=head, **settings)

    def phi(self) -> Theta:
        """Where the head starts: at zero; the gradient of the head's own weights is zero, too."""
        return {name: 0 * p for name, p in super().phi().items()}


def refuse_standing_still(model: nn.Sequential, head: nn.Module) -> None:
    """A head that could not start at zero, or would not leave it.

    Raises:
        ValueError: says what it is about the head.

    >>> two = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    >>> refuse_standing_still(nn.Sequential(nn.Flatten(), two), two)
    Traceback (most recent call last):
    ValueError: the head starts at zero, and is of several layers: ...
    """
    layers = [
        part for part in head.modules() if any(p is not None for p in part._parameters.values())
    ]
    body = {id(p) for p in model[:-1].parameters()}
    if len(layers) > 1 or isinstance(head, CosineHead):
        what = "is of several layers" if len(layers) > 1 else "takes the directions of its weights"
        raise ValueError(
            f"the head starts at zero, and {what}: no gradient would move it. Take one nn.Linear, "
            "and put other layers into the body"
        )
    if any(id(p) in body for p in head.parameters()):
        raise ValueError("the head starts at zero, and shares a weight with the body: untie them")
    if not all(p.requires_grad for p in head.parameters()):
        raise ValueError("the head starts at zero, and a part of it is frozen: let all of it learn")
