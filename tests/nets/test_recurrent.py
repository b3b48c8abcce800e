"""The recurrent network, against torch's cell."""

import pytest
import torch
from torch import nn

from metanotes.nets import feature_count, lstm


def test_it_says_at_every_place_what_an_lstm_cell_and_a_head_say():
    net = lstm(inputs=3, outputs=2, hidden=5).double()
    body, head = net
    cell = nn.LSTMCell(3, 5).double()
    cell.load_state_dict({n.removesuffix("_l0"): p for n, p in body.state_dict().items()})
    x = torch.randn(4, 7, 3, dtype=torch.float64)
    outputs, state = net(x), None
    for t in range(7):
        state = cell(x[:, t], state)
        torch.testing.assert_close(outputs[:, t], head(state[0]))


def test_its_forget_gates_are_open_and_its_body_tells_its_features():
    body = lstm(inputs=3, outputs=None, hidden=5)
    assert torch.equal(body[0].bias_hh_l0[5:10], torch.ones(5))
    assert feature_count(body) == 5
    assert body(torch.zeros(2, 6, 3)).shape == (2, 6, 5)


def test_bad_sizes_are_named():
    with pytest.raises(ValueError, match="hidden=0"):
        lstm(3, 2, hidden=0)
    with pytest.raises(ValueError, match="outputs=0"):
        lstm(3, 0)
