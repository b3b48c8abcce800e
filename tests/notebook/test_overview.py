"""What the map says: the words of the documentation, and costs that are counted."""

import pytest
import torch
from torch import nn

from metanotes.methods.initialization import MAML
from metanotes.notebook import cost_of, grouped_table, map_fields, numbers_in


def test_the_operations_of_a_gradient_are_those_of_its_three_products() -> None:
    layer, x = nn.Linear(7, 5), torch.randn(11, 7, requires_grad=True)
    cost = cost_of(lambda: layer(x).sum().backward())
    assert cost.operations == 3 * 2 * 11 * 7 * 5


def test_an_lstm_and_attention_are_counted() -> None:
    lstm, x = nn.LSTM(3, 4, batch_first=True), torch.randn(2, 6, 3)
    assert cost_of(lambda: lstm(x)).operations == 2 * 2 * 6 * 4 * 4 * (3 + 4)
    q = torch.randn(1, 2, 5, 4)
    attention = nn.functional.scaled_dot_product_attention
    assert cost_of(lambda: attention(q, q, q)).operations == 2 * 2 * 2 * 5 * 5 * 4


def test_memory_is_what_is_there_at_a_time() -> None:
    x = torch.ones(100)

    def one_after_the_other() -> None:
        for _ in range(3):
            x.exp()

    def all_at_once() -> list[torch.Tensor]:
        return [x.exp() for _ in range(3)]

    assert cost_of(one_after_the_other).memory == 400
    assert cost_of(all_at_once).memory == 1200


def test_memory_holds_the_graph_until_it_is_gone() -> None:
    x = torch.ones(100, requires_grad=True)
    assert cost_of(lambda: x.exp().exp().exp()).memory == 1200  # each is kept for its backward
    with torch.no_grad():
        assert cost_of(lambda: x.exp().exp().exp()).memory == 800


def test_views_and_changes_in_place_cost_no_memory() -> None:
    x = torch.ones(10, 10)
    assert cost_of(lambda: x.view(-1).add_(1)).memory == 0


def test_the_same_work_costs_the_same() -> None:
    tasks = torch.randn(2, 4, 3), torch.randn(2, 4, 1)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def work() -> None:
        nn.functional.mse_loss(model(tasks[0]), tasks[1]).backward()
        model.zero_grad()

    work()
    assert cost_of(work) == cost_of(work)


def test_onednn_is_as_it_was_after_a_failure() -> None:
    before = torch.backends.mkldnn.enabled
    with pytest.raises(ZeroDivisionError):
        cost_of(lambda: 1 // 0)
    assert torch.backends.mkldnn.enabled == before


def test_numbers_are_counted_in_trees_and_of_what_learns() -> None:
    net = nn.Linear(3, 2)
    net.bias.requires_grad_(False)
    assert numbers_in(net) == 6
    assert numbers_in((torch.zeros(2, 3), {"a": torch.zeros(4)}, None, "x")) == 10


def test_the_fields_of_a_method_are_read() -> None:
    assert map_fields(MAML)["adapts"] == "all weights, k steps"
    assert map_fields(nn.Linear) == {}


def test_a_missing_field_is_named() -> None:
    def half() -> None:
        """Half a method.

        On the map:
            phi: a half
        """

    with pytest.raises(ValueError, match="half has the fields phi under"):
        map_fields(half)


def test_a_group_has_a_line_of_its_own() -> None:
    table = grouped_table(["a", "b"], {"first": [["1 < 2", "3"]], "none": [], "x": [["4", "5"]]}, 1)
    rows = [line for line in table.splitlines() if line.startswith("<tr>")]
    assert [row.count("<td") for row in rows] == [0, 2, 0, 0, 2]
    assert "1 &lt; 2" in rows[1]
    assert rows[1].count("min-width") == 1
    with pytest.raises(ValueError, match="1 texts for 2 columns"):
        grouped_table(["a", "b"], {"first": [["1"]]}, 1)
