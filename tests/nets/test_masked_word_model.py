"""A model that names hidden words: the places, the tied embedding, and what it refuses."""

import pytest
import torch

from metanotes import Batch, Classifier, Task, meta_train
from metanotes.nets import MaskedWordModel, TokenBody


def model() -> MaskedWordModel:
    torch.manual_seed(0)
    return MaskedWordModel(TokenBody(20, 8, 2, 2, 6)).double()


def test_the_scores_at_a_place_are_products_with_the_embedding():
    net, x = model(), torch.tensor([[5, 4, 7, 8, 0, 0], [9, 4, 4, 10, 11, 12]])
    places = torch.tensor([[1, 3], [2, 1]])
    with torch.no_grad():
        net.bias += torch.randn(20).double()
        z, scores = net.body(x), net(x, places)
    for n, row in enumerate(places.tolist()):
        for p, place in enumerate(row):
            right = net.body.embedding.weight @ z[n, place] + net.bias
            assert torch.allclose(scores[n, p], right, atol=1e-12)


def test_it_learns_to_name_them():
    net = model().float()
    x = torch.tensor([[5, 4, 7], [6, 4, 8], [7, 4, 5]])
    batch = Batch({"input_ids": x[None], "places": torch.ones(1, 3, 1).long()}, x[None, :, :1])

    def loss(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(outputs.flatten(0, 1), y.flatten())

    learner = Classifier(net, loss=loss)
    meta_train(learner, lambda _: Task(batch, batch), 60, 1, meta_lr=0.01, progress=False)
    assert (net(x, torch.ones(3, 1).long())[:, 0].argmax(1) == x[:, 0]).all()
    assert net.body.embedding.weight.grad is not None


def test_a_body_that_gives_one_place_is_refused():
    with pytest.raises(ValueError, match="pool=4, and must give every place"):
        MaskedWordModel(TokenBody(20, 8, 2, 2, 6, pool=4))
