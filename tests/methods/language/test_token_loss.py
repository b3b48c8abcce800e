"""The loss of tokens, against its definition; what fills up a row changes nothing."""

import pytest
import torch

from metanotes.methods.language import token_loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_its_definition(smoothing: float) -> None:
    g = torch.Generator().manual_seed(0)
    outputs = torch.randn(3, 4, 5, generator=g, dtype=torch.float64)
    y = torch.randint(5, (3, 4), generator=g)
    y[0, 2:], y[2] = -100, -100
    total = count = 0.0
    for n in range(3):
        for place in range(4):
            if y[n, place] == -100:
                continue
            q = torch.full((5,), smoothing / 5, dtype=torch.float64)
            q[y[n, place]] += 1 - smoothing
            total -= float(q @ outputs[n, place].log_softmax(0))
            count += 1
    assert count == 6
    torch.testing.assert_close(float(token_loss(outputs, y, smoothing)), total / count)


def test_what_fills_up_a_row_has_no_gradient() -> None:
    outputs = torch.randn(2, 3, 5, requires_grad=True)
    token_loss(outputs, torch.tensor([[1, 2, -100], [0, -100, -100]])).backward()
    assert outputs.grad is not None
    zero = (outputs.grad == 0).all(-1)
    assert zero.tolist() == [[False, False, True], [False, True, True]]


def test_tokens_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"y has the shape \[3, 2\] and outputs \[2, 3, 5\]"):
        token_loss(torch.zeros(2, 3, 5), torch.ones(3, 2, dtype=torch.long))
