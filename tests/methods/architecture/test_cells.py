"""The space of 64 cells: which are one function, and that a mixed cell's paths are the cells."""

import pytest
import torch
from torch import nn

from metanotes.data import digits
from metanotes.methods.architecture import (
    CELLS,
    OPERATIONS,
    CellNetwork,
    DigitCell,
    function_of,
    only_path,
    train_classifier,
)


class Sign(nn.Module):
    """Some fixed function that is neither linear nor 0, one for each name."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, x):
        change = {"none": 0 * x, "skip": x, "conv": x.relu() * 3.7, "pool": x.roll(1) - x / 2}
        return change[self.name]


def test_cells_of_one_function_compute_the_same_and_others_do_not():
    x = torch.randn(50, generator=torch.Generator().manual_seed(0)).double()
    outputs = {}
    for cell in CELLS:
        module = DigitCell(1, lambda _, place, cell=cell: Sign(cell[place]))
        outputs.setdefault(function_of(cell), []).append(module(x))
    assert len(CELLS) == 64
    assert len(outputs) == 26
    firsts = [same[0] for same in outputs.values()]
    for same in outputs.values():
        for other in same[1:]:
            torch.testing.assert_close(other, same[0])
    different = torch.cdist(torch.stack(firsts), torch.stack(firsts))
    assert (different + torch.eye(26) > 1e-3).all()


def test_the_name_of_a_function_is_one_of_its_cells():
    for cell in CELLS:
        assert function_of(function_of(cell)) == function_of(cell)
        assert CELLS.index(function_of(cell)) <= CELLS.index(cell)


def test_a_path_through_the_mixed_network_is_the_network_of_that_cell():
    mixed, x = CellNetwork(), torch.rand(6, 1, 8, 8)
    for cell in (("skip", "conv", "pool"), ("conv", "none", "conv")):
        alone = CellNetwork(cell, seed=5)
        state = mixed.state_dict()
        for name, p in alone.named_parameters():
            parts = name.split(".")
            if parts[0] in ("first", "second"):
                edge = "abc".index(parts[1])
                parts[2:2] = ["operations", str(OPERATIONS.index(cell[edge]))]
            with torch.no_grad():
                p.copy_(state[".".join(parts)])
        with only_path(mixed, cell):
            torch.testing.assert_close(mixed(x), alone.train()(x))


def test_nothing_comes_through_none():
    net = CellNetwork(("skip", "none", "none"))
    outputs = net(torch.rand(5, 1, 8, 8))
    torch.testing.assert_close(outputs, net.head.bias.expand(5, -1))


def test_training_learns_digits_and_repeats_itself():
    x, y, _ = digits("sklearn", size=8)
    x = x.float() / 255
    nets = [CellNetwork(("none", "conv", "none")) for _ in range(2)]
    for net in nets:
        train_classifier(net, x[:400], y[:400])
    same = zip(*(net.parameters() for net in nets), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    with torch.no_grad():
        right = (nets[0].eval()(x[400:]).argmax(1) == y[400:]).double().mean()
    assert right > 0.5


def test_the_last_step_of_training_has_a_rate_near_0(monkeypatch):
    rates = []
    step = torch.optim.SGD.step

    def noted(self, *arguments, **named):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments, **named)

    monkeypatch.setattr(torch.optim.SGD, "step", noted)
    net = CellNetwork(("none", "pool", "none"))
    train_classifier(
        net, torch.rand(43, 1, 8, 8), torch.arange(43) % 10, epochs=3, batch=10, lr=0.2
    )
    assert len(rates) == 3 * 4  # three examples an epoch are left over
    expected = 0.1 * (1 + torch.cos(torch.pi * torch.arange(12) / 12))
    torch.testing.assert_close(torch.tensor(rates), expected)


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match=r"cell=\('conv', 'conv'\) must be three"):
        CellNetwork(("conv", "conv"))
    with pytest.raises(ValueError, match=r"cell=.*'sep'.* must be three of the operations none"):
        CellNetwork(("conv", "conv", "sep"))
    with pytest.raises(ValueError, match="classes=1 must be"):
        CellNetwork(classes=1)
    with pytest.raises(ValueError, match="batch=5 is larger than the set of 4"):
        train_classifier(CellNetwork(), torch.rand(4, 1, 8, 8), torch.zeros(4).long(), batch=5)
    assert len(OPERATIONS) == 4
