"""Mixed operations: the weighted mean, one alpha for several edges, one path alone."""

import pytest
import torch
from torch import nn

from metanotes.methods.architecture import MixedOperation, best_choice, edges, only_path


def operations():
    return {"skip": nn.Identity(), "tanh": nn.Tanh(), "linear": nn.Linear(4, 4)}


def test_it_is_the_mean_of_its_operations_weighted_by_a_softmax():
    parts = operations()
    edge, x = MixedOperation(parts).double(), torch.randn(3, 4).double()
    with torch.no_grad():
        edge.alpha.copy_(torch.tensor([0.3, -1.0, 2.0]))
    e = [torch.tensor(a).double().exp() for a in (0.3, -1.0, 2.0)]
    expected = (e[0] * x + e[1] * x.tanh() + e[2] * parts["linear"](x)) / sum(e)
    torch.testing.assert_close(edge(x), expected, rtol=1e-6, atol=1e-7)


def test_edges_with_one_alpha_make_one_choice():
    first = MixedOperation(operations())
    second = MixedOperation(operations(), first.alpha)
    net = nn.Sequential(first, nn.Sequential(second), MixedOperation(operations()))
    assert [len(together) for together in edges(net).values()] == [2, 1]
    with torch.no_grad():
        first.alpha[1] = 1.0
    assert best_choice(net) == ("tanh", "skip")
    assert sum(p is first.alpha for p in net.parameters()) == 1


def test_a_path_is_its_operations_and_ends_with_the_context():
    first = MixedOperation(operations())
    net = nn.Sequential(first, MixedOperation(operations(), first.alpha))
    x = torch.randn(3, 4)
    mixed = net(x)
    with only_path(net, ["tanh"]):
        torch.testing.assert_close(net(x), x.tanh().tanh())
    with pytest.raises(RuntimeError), only_path(net, ["skip"]):
        raise RuntimeError
    torch.testing.assert_close(net(x), mixed)


def test_what_leaves_nothing_to_choose_is_refused():
    with pytest.raises(ValueError, match=r"operations=\['skip'\] leave nothing to choose"):
        MixedOperation({"skip": nn.Identity()})
    with pytest.raises(ValueError, match=r"alpha has the shape \[2\].*must be \[3\]"):
        MixedOperation(operations(), nn.Parameter(torch.zeros(2)))
    with pytest.raises(ValueError, match="Linear has no MixedOperation"):
        edges(nn.Linear(2, 2))


def test_a_choice_that_does_not_fit_is_refused():
    net = nn.Sequential(MixedOperation(operations()))
    with pytest.raises(ValueError, match="must name 1 operations"), only_path(net, ["skip"] * 2):
        pass
    with pytest.raises(ValueError, match="'pool' is none of the operations"):
        only_path(net, ["pool"]).__enter__()


def test_a_path_within_a_path_ends_with_the_one_around_it():
    net, x = nn.Sequential(MixedOperation(operations())), torch.randn(3, 4)
    with only_path(net, ["tanh"]):
        with only_path(net, ["skip"]):
            assert torch.equal(net(x), x)
        assert torch.equal(net(x), x.tanh())
