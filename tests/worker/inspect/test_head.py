import math

import pytest
import torch

from worker.inspect.head import Head, defect_probability


def test_the_head_is_two_layers_with_a_relu_between():
    head = Head(
        hidden_weight=torch.tensor([[1.0, 0.0], [0.0, 2.0]]),
        hidden_bias=torch.tensor([0.5, -5.0]),
        output_weight=torch.tensor([[1.0, 1.0], [3.0, 10.0]]),
        output_bias=torch.tensor([0.0, 1.0]),
        exponent=torch.tensor(1.0),
    )
    # Hidden: 1 + 0.5 = 1.5; 2 * 2 - 5 = -1, cut to 0. Logits: 1.5 and 3 * 1.5 + 1.
    torch.testing.assert_close(head.logits(torch.tensor([[1.0, 2.0]])), torch.tensor([[1.5, 5.5]]))


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, math.exp(2)), (2.0, math.e)])
def test_the_temperature_divides_the_logits(temperature, expected):
    (probability,) = defect_probability(torch.tensor([[1.0, 3.0]]), temperature).tolist()
    assert probability == pytest.approx(expected / (1 + expected), abs=1e-6)


def test_very_sure_photos_keep_their_order():
    """In fp32 all beyond log-odds of 17 would be 1."""
    margins = torch.tensor([20.0, 25.0, 30.0])
    logits = torch.stack([torch.zeros(3), margins], dim=1)
    probabilities = defect_probability(logits, 1.0).tolist()
    assert probabilities == sorted(set(probabilities))
