"""The neural statistician: what a set of examples has in common, as a vector (Edwards, Storkey).

    c ~ N(0, I),    z_i ~ p(z|c),    x_i ~ p(x|z_i, c)                     how a set D comes about

    log p(D) >= E[ sum_i log p(x_i|z_i, c) - KL(q(z|x_i, c) || p(z|c)) ] - KL(q(c|D) || p(c))    (1)
    q(c|D) = N(mu, diag sigma^2),    (mu, sigma) = s((1/N) sum_i h(x_i))                         (2)
    class of x = argmin_k KL(q(c|D_k) || q(c|x))                                                 (3)

The expectation in (1) is over c ~ q(c|D) and z_i ~ q(z|x_i, c), one draw of each. phi is all of the
networks: the body h, the statistic s, p and q of z, and the decoder p(x|z, c). No label is looked
at, but that the examples of a set belong together. The context c is the statistic of the set;
what distinguishes its members is left to z.

Source: Edwards and Storkey, "Towards a Neural Statistician", ICLR 2017, with one layer of z.
"""

from __future__ import annotations

from typing import Literal, Unpack

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from metanotes._ground.checks import counts
from metanotes._ground.randomness import seeded
from metanotes.engine import Computing
from metanotes.learner import Learner, check_targets, cross_entropy
from metanotes.nets import feature_count, mlp
from metanotes.task import Batch, Inputs, Task, joined
from metanotes.theta import call, over_tasks

LEAST = 0.01  # of a standard deviation


class NeuralStatistician(Learner):
    """Learns a statistic of sets without labels, (1), and tells sets apart by it, (3).

    A task is one or several sets, its classes. In training all examples of a class, support and
    query, are a set; the losses are minus the bound (1) for an example. `adapt` gives q(c|D_k) of
    each class, and `predict` answers with (3).

    On the map:
        phi: an encoder of sets, and a decoder of examples
        adapts: a distribution of a vector for each class
        outer loss: minus a lower bound of the log-likelihood of all examples
        needs: first derivatives; sets, without other labels

    Args:
        body: h, from x `[N, ...]` to features `[N, F]`; it must not mix examples.
        decoder: from (z, c), `[N, latent + context]`, to what p(x|z, c) is made of.
        ways: classes of a task, each with an example.
        context: numbers in c.
        latent: numbers in z.
        likelihood: "bernoulli", for pixels in 0..1, of which the decoder gives the logits, in the
            shape of x; or "normal", for real x `[N, d]`, the decoder giving means and what becomes
            standard deviations, `[N, 2 d]`.
        seed: of the initial weights of what is neither body nor decoder.
        computing: see `Options`.

    Raises:
        ValueError: a count below 1, another likelihood, a decoder that does not fit x, labels
            outside the ways, a class without a support example.

    Source: see the module's.

    >>> from metanotes.data import point_sets
    >>> learner = NeuralStatistician(mlp(2, 32, 32), mlp(4 + 3, 32, 4), ways=1, context=3,
    ...                              latent=4, likelihood="normal")
    >>> tasks = point_sets(shots=20, queries=20, seed=0)(16)
    >>> learner(tasks).shape
    torch.Size([16])
    >>> c = learner.adapt(tasks.support)
    >>> c.mean.shape, learner.generate(c, 50).shape
    (torch.Size([16, 1, 3]), torch.Size([16, 1, 50, 2]))
    """

    def __init__(
        self,
        body: nn.Module,
        decoder: nn.Module,
        ways: int,
        *,
        context: int = 16,
        latent: int = 16,
        likelihood: Literal["bernoulli", "normal"] = "bernoulli",
        seed: int = 0,
        **computing: Unpack[Computing],
    ) -> None:
        super().__init__(cross_entropy, **computing)
        counts(ways=ways, context=context, latent=latent)
        if likelihood not in ("bernoulli", "normal"):
            raise ValueError(f'likelihood={likelihood!r} must be "bernoulli" or "normal"')
        self.body, self.decoder, self.ways, self.likelihood = body, decoder, ways, likelihood
        features = feature_count(body)
        self.statistic = mlp(features, features, 2 * context, seed=seed)
        self.z_of_c = mlp(context, features, 2 * latent, seed=seed + 1)
        self.z_of_x = mlp(features + context, features, 2 * latent, seed=seed + 2)

    # --------------------------------------------------------------------------- the distributions

    def features(self, x: Inputs) -> Tensor:
        """h(x): `[T, N, ...]` to `[T, N, F]`."""
        return over_tasks(lambda x: call(self.body, {}, x))(x)

    def members(self, y: Tensor) -> Tensor:
        """Which example is of which class, in ones and zeros: labels `[T, N]` to `[T, N, ways]`."""
        check_targets(cross_entropy, torch.Size([self.ways]), y)
        return F.one_hot(y, self.ways)

    def contexts(self, h: Tensor, members: Tensor) -> Normal:
        """q(c|D_k), (2), of every class: h `[T, N, F]` to a normal distribution `[T, ways, C]`.

        Raises:
            ValueError: a class without an example.
        """
        members = members.to(h)
        size = members.sum(1)[..., None]  # [T, ways, 1]
        if (size == 0).any():
            task, label, _ = (size == 0).nonzero()[0].tolist()
            raise ValueError(
                f"class {label} of task {task} has no example, and so no statistic: a task has "
                f"examples of all ways={self.ways} classes"
            )
        return normal(self.statistic(members.mT @ h / size))

    def adapt(self, support: Batch, steps: int | None = None) -> Normal:
        """q(c|D_k) of every class, a normal distribution `[T, ways, context]`."""
        return self.contexts(self.features(support.x), self.members(support.y))

    def predict(self, adapted: Normal, x: Inputs) -> Tensor:
        """-KL(q(c|D_k) || q(c|x)) for every query and class, `[T, M, ways]`."""
        alone = normal(self.statistic(self.features(x)))  # [T, M, C]
        q_k, q_x = (
            Normal(*parts, validate_args=False)
            for parts in (
                (adapted.mean[:, None], adapted.stddev[:, None]),
                (alone.mean[:, :, None], alone.stddev[:, :, None]),
            )
        )
        return -kl_divergence(q_k, q_x).sum(3)

    def generate(self, adapted: Normal, number: int) -> Tensor:
        """New members of every class, `[T, ways, number, ...]`.

        c is the mean of q(c|D_k), z is drawn; of x it is the mean (of "normal": a draw).

        Args:
            adapted: what `adapt` gives.
            number: members of a class.
        """
        c = adapted.mean[:, :, None].expand(-1, -1, number, -1).flatten(1, 2)
        x = self.decoded(normal(self.z_of_c(c)).rsample(), c)
        x = x.sigmoid() if self.likelihood == "bernoulli" else normal(x).rsample()
        return x.unflatten(1, (self.ways, number))

    def decoded(self, z: Tensor, c: Tensor) -> Tensor:
        """What the decoder makes of z `[T, N, latent]` and c `[T, N, context]`: `[T, N, ...]`."""
        return over_tasks(lambda zc: call(self.decoder, {}, zc))(torch.cat([z, c], 2))

    # ----------------------------------------------------------------------------------- the bound

    def query_losses(self, tasks: Task) -> Tensor:
        """Minus (1), summed over the classes and divided by the number of examples: `[T]`."""
        x, y = joined(*tasks)
        h, members = self.features(x), self.members(y)
        q_c = self.contexts(h, members)
        c = members.to(h) @ q_c.rsample()  # [T, N, C]: an example's is that of its class
        q_z, p_z = normal(self.z_of_x(torch.cat([h, c], 2))), normal(self.z_of_c(c))
        log_p = self.log_likelihood(self.decoded(q_z.rsample(), c), x)  # [T, N]
        p_c = Normal(torch.zeros_like(q_c.mean), torch.ones_like(q_c.mean), validate_args=False)
        bound = (log_p - kl_divergence(q_z, p_z).sum(2)).sum(1)
        return (kl_divergence(q_c, p_c).sum((1, 2)) - bound) / x.shape[1]

    def log_likelihood(self, outputs: Tensor, x: Tensor) -> Tensor:
        """log p(x|z, c) from what the decoder gives: `[T, N]`.

        Raises:
            ValueError: the decoder's outputs do not have the shape that x asks for.
        """
        asked = list(x.shape[2:])
        if self.likelihood == "normal":
            asked[-1] *= 2
        if list(outputs.shape[2:]) != asked:
            raise ValueError(
                f"the decoder gives {list(outputs.shape[2:])} for x {list(x.shape[2:])}; with "
                f'likelihood="{self.likelihood}" it must give {asked}'
            )
        if self.likelihood == "normal":
            log_p = normal(outputs).log_prob(x)
        else:
            if ((x < 0) | (x > 1)).any():
                raise ValueError(
                    f"x runs from {float(x.min()):g} to {float(x.max()):g}, and "
                    'likelihood="bernoulli" is of pixels in 0..1: x / 255, or "normal"'
                )
            log_p = -F.binary_cross_entropy_with_logits(outputs, x, reduction="none")
        return log_p.flatten(2).sum(2)

    def probe(self, tasks: Task) -> list[Tensor]:
        """As of any learner, with the same draws of c and z each time."""
        with seeded(0):
            return super().probe(tasks)

    def extra_repr(self) -> str:
        return f"ways={self.ways}, likelihood={self.likelihood!r}"


def normal(outputs: Tensor) -> Normal:
    """Means and raw standard deviations, side by side, as independent normal distributions.

    Args:
        outputs: `[..., 2 d]`.

    Returns:
        A distribution `[..., d]`, whose standard deviations are above 0.01.

    >>> normal(torch.zeros(3, 8)).stddev.shape
    torch.Size([3, 4])
    """
    mean, raw = outputs.chunk(2, -1)
    return Normal(mean, LEAST + F.softplus(raw), validate_args=False)
