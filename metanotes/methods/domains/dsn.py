"""Domain separation networks: what two domains share, and what is each one's own.

    L = L_task + alpha L_recon + beta L_difference + gamma L_similarity                          (1)
    x_hat = D(E_c(x) + E_p(x)),    y_hat = G(E_c(x))

A shared encoder E_c and a private one E_p for each domain; the decoder D must rebuild an image from
the sum of its two codes, so that nothing is lost; the difference loss keeps the two codes apart,
and the similarity loss the shared codes of both domains alike.

Source: Bousmalis et al., "Domain Separation Networks", NeurIPS 2016, equations 1 to 6.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from metanotes._ground.checks import nonnegative
from metanotes.methods.domains.adaptation import DomainAdaptation, Similarity
from metanotes.methods.domains.losses import difference_loss, scale_invariant_mse


class Parts(NamedTuple):
    """Images rebuilt by the decoder, each `[n, ...]`: from both codes, and from each alone.

    >>> nets = [nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 4)]
    >>> DSN(*nets).reconstruct(torch.rand(5, 4), "source").shared.shape
    torch.Size([5, 4])
    """

    both: Tensor
    shared: Tensor
    private: Tensor


class DSN(DomainAdaptation):
    """Private and shared encoders, a shared decoder, a classifier.

    On the map:
        phi: a network for both domains, and a private one for each
        adapts: nothing
        outer loss: of the source's labels, of rebuilt inputs, and how unlike the shared codes are
        needs: labels of one domain, inputs of the other

    Args:
        encoder: E_c, from `[n, ...]` to `[n, d]`.
        classifier: G, from `[n, d]` to `[n, classes]`.
        private_source: E_p of the source, from `[n, ...]` to `[n, d]`.
        private_target: E_p of the target.
        decoder: from `[n, d]` to `[n, ...]`, the shape of the inputs.
        similarity, gamma, ramp: as of `DomainAdaptation`.
        alpha: weight of the reconstruction.
        beta: weight of the difference loss.
        reconstruction: from x_hat and x to a scalar; `metanotes.mse` is the plain one.

    Raises:
        TypeError: a part is no module, or `reconstruction` no function.
        ValueError: a weight is negative, or a private code has another shape than the shared one.

    >>> from metanotes.methods.domains import mmd
    >>> nets = [nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 4)]
    >>> sorted(DSN(*nets, similarity=mmd).weights)
    ['difference', 'reconstruction', 'similarity', 'task']
    """

    def __init__(
        self,
        encoder: nn.Module,
        classifier: nn.Module,
        private_source: nn.Module,
        private_target: nn.Module,
        decoder: nn.Module,
        *,
        similarity: Similarity | None = None,
        gamma: float = 0.25,
        ramp: int = 0,
        alpha: float = 0.1,
        beta: float = 0.05,
        reconstruction: Similarity = scale_invariant_mse,
    ) -> None:
        parts = {
            "encoder": encoder,
            "classifier": classifier,
            "private_source": private_source,
            "private_target": private_target,
            "decoder": decoder,
        }
        for name, part in parts.items():
            if not isinstance(part, nn.Module):
                raise TypeError(f"{name} is a {type(part).__name__}; it must be a module")
        if not callable(reconstruction):
            raise TypeError(
                f"reconstruction={reconstruction!r} must be a function of x_hat and x, such as "
                "metanotes.mse"
            )
        super().__init__(encoder, classifier, similarity, gamma=gamma, ramp=ramp)
        self.private_source, self.private_target = private_source, private_target
        self.decoder, self.reconstruction = decoder, reconstruction
        self.weights["reconstruction"] = nonnegative("alpha", alpha)
        self.weights["difference"] = nonnegative("beta", beta)

    def pair_terms(self, source: Tensor, y: Tensor, target: Tensor) -> dict[str, Tensor]:
        shared = self.codes(source, target)
        private = self.private_source(source), self.private_target(target)
        for name, c, p in zip(("source", "target"), shared, private, strict=True):
            if c.shape != p.shape:
                raise ValueError(
                    f"private_{name} gives codes {list(p.shape)} and encoder {list(c.shape)}: "
                    "their sum is decoded, so they must agree"
                )
        both = torch.cat(shared) + torch.cat(private)
        rebuilt, images = self.decoder(both), (source, target)
        asked = torch.cat(images).shape
        if rebuilt.shape != asked:
            raise ValueError(
                f"the decoder gives {list(rebuilt.shape)} for images {list(asked)}: what it "
                "rebuilds must have their shape"
            )
        halves = rebuilt[: len(source)], rebuilt[len(source) :]
        recon = [self.reconstruction(*pair) for pair in zip(halves, images, strict=True)]
        difference = [difference_loss(*codes) for codes in zip(shared, private, strict=True)]
        return self.shared_terms(*shared, y) | {
            "reconstruction": recon[0] + recon[1],
            "difference": difference[0] + difference[1],
        }

    @torch.no_grad()
    def reconstruct(self, x: Tensor, domain: str) -> Parts:
        """Images `[n, ...]` of a domain, `"source"` or `"target"`, as the decoder sees them."""
        if domain not in ("source", "target"):
            raise ValueError(f'domain={domain!r} must be "source" or "target"')
        shared = self.encoder(x)
        private = (self.private_source if domain == "source" else self.private_target)(x)
        return Parts(*map(self.decoder, (shared + private, shared, private)))
