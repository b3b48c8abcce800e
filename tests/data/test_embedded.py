"""Features of all examples, made once."""

import pytest
import torch
from torch import nn

from metanotes import Batch
from metanotes.data import embedded, episodes, glyphs, sequences
from metanotes.data.images import Images
from metanotes.nets import conv4


def trained_body():
    body = conv4(ways=None, channels=3, running_statistics=True)
    body(torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0)))
    return body


def few():
    images = glyphs("evaluation")
    return Images(images.x[:37], images.y[:37], images.names)


@pytest.mark.parametrize("batch", [1, 10, 37, 500])
def test_each_example_has_its_features_however_many_are_made_at_once(batch):
    body, data = trained_body(), few()
    made = embedded(data, body, batch=batch)
    assert body.training
    body.eval()
    expected = torch.cat([body(x[None].float() / 255) for x in data.x])
    torch.testing.assert_close(made.x, expected)
    assert torch.equal(made.y, data.y)
    assert not made.x.requires_grad


def test_a_class_that_is_turned_is_another():
    body, data = trained_body(), few()
    made = embedded(data, body, rotations="classes", batch=30)
    body.eval()
    assert made.x.shape == (4 * 37, 12)
    for row in (0, 5, 50, 147):
        n, turn = divmod(row, 4)
        image = data.x[n][None].float().div(255).rot90(turn, (2, 3))
        torch.testing.assert_close(made.x[row], body(image)[0])
        assert int(made.y[row]) == 4 * int(data.y[n]) + turn


def test_samplers_take_them():
    made = embedded(glyphs("evaluation"), trained_body())
    drawn, tasks = sequences(made, 5, 30)(3), episodes(made, 5, 1, 2)(3)
    assert drawn.x.shape == (3, 30, 12)
    assert tasks.query.x.shape == (3, 10, 12)
    twice = embedded(made, nn.Identity())
    assert torch.equal(twice.x, made.x)


def test_what_cannot_be_kept_is_refused():
    with pytest.raises(ValueError, match="depend on the others in its batch"):
        embedded(few(), conv4(None, 3))
    with pytest.raises(ValueError, match="use 'classes', or None"):
        embedded(few(), trained_body(), rotations="tasks")
    with pytest.raises(ValueError, match="rotations='classes' asks for square images"):
        embedded(Batch(torch.zeros(4, 3), torch.zeros(4).long()), nn.Identity(), "classes")
    with pytest.raises(ValueError, match="batch=0"):
        embedded(few(), trained_body(), batch=0)
