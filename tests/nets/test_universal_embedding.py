"""The lookup of words by their company, against its equation."""

import pytest
import torch

from metanotes.nets import Translator, UniversalEmbedding
from tests.plainly import shaken


def made(temperature: float = 0.3) -> UniversalEmbedding:
    g = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(n, 4, generator=g, dtype=torch.float64) for n in (7, 5))
    queries[2] = 0
    embedding = UniversalEmbedding(queries, keys, 3, temperature)
    shaken(embedding)
    return embedding


def test_a_vector_is_the_equations() -> None:
    embedding = made()
    tokens = torch.tensor([[1, 3, 6]])
    for place, w in enumerate(tokens[0].tolist()):
        scores = [
            float((k @ embedding.alignment @ embedding.queries[w]).detach()) / 0.3
            for k in embedding.keys
        ]
        weights = torch.tensor(scores, dtype=torch.float64).softmax(0)
        expected = sum(a * v for a, v in zip(weights, embedding.values, strict=True))
        expected = expected + embedding.deviation.weight[w]
        torch.testing.assert_close(embedding(tokens)[0, place], expected)


def test_a_word_without_company_has_its_deviation_alone() -> None:
    embedding = made()
    vector = embedding(torch.tensor([[2]]))[0, 0]
    torch.testing.assert_close(vector, embedding.deviation.weight[2])


def test_at_the_start_words_of_the_same_company_are_one() -> None:
    torch.manual_seed(0)
    q = torch.nn.functional.normalize(torch.randn(3, 4))
    embedding = UniversalEmbedding(torch.cat([q, q]), torch.randn(5, 4), width=8)
    one, other = embedding(torch.tensor([[0, 1, 2], [3, 4, 5]]))
    torch.testing.assert_close(one, other)


def test_a_translator_reads_by_it() -> None:
    model = Translator(7, 9, width=8, heads=2, layers=1, positions=6)
    torch.manual_seed(0)
    model.encoder.embedding = UniversalEmbedding(torch.randn(7, 4), torch.randn(5, 4), width=8)
    source, target = torch.tensor([[5, 6, 0]]), torch.tensor([[1, 5]])
    assert model(source, target).shape == (1, 2, 9)
    with pytest.raises(ValueError, match=r"outside 0\.\.6"):
        model(torch.tensor([[7]]), target)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="with the same d"):
        UniversalEmbedding(torch.zeros(7, 4), torch.zeros(5, 3), width=8)
    with pytest.raises(ValueError, match="temperature=0"):
        UniversalEmbedding(torch.zeros(7, 4), torch.zeros(5, 4), width=8, temperature=0)
