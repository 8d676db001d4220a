"""The classifier head: deviations from good parts in, the probability of a defect out.

Linear 1024 -> 256, ReLU, Dropout 0.4 (training only), Linear 256 -> 2. Training
folds the standardisation of the inputs into the first layer.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.inspect.good_features import pool_deviations, shares_of

HIDDEN = 256
DEFECTIVE = 1
"""Index of the defect class among the two logits; 0 is good."""


@dataclass(frozen=True)
class Head:
    """How a trained head pools deviations over the cells, and its two layers."""

    hidden_weight: Tensor  # (256, 1024)
    hidden_bias: Tensor  # (256,)
    output_weight: Tensor  # (2, 256)
    output_bias: Tensor  # (2,)
    exponent: Tensor  # (), of the generalised mean; 1 is the average

    def pool(self, deviations: Tensor) -> Tensor:
        """What it reads: (B, 1024, H, W) to (B, 1024)."""
        return pool_deviations(deviations, float(self.exponent))

    def shares(self, deviations: Tensor, pooled: Tensor) -> Tensor:
        """What each cell has of what it reads: (B, 1024, H, W), whose mean is `pooled`."""
        return shares_of(deviations, pooled, float(self.exponent))

    def hidden(self, pooled: Tensor) -> Tensor:
        """Activations of the hidden layer before its ReLU: (B, 1024) to (B, 256)."""
        return pooled @ self.hidden_weight.T + self.hidden_bias

    def logits(self, pooled: Tensor) -> Tensor:
        """Scores of good and defective before the softmax: (B, 1024) to (B, 2)."""
        return torch.relu(self.hidden(pooled)) @ self.output_weight.T + self.output_bias


def defect_probability(logits: Tensor, temperature: float) -> Tensor:
    """Calibrated probability of the defect class: logits (B, 2) to (B,).

    Dividing by the temperature (Guo et al. 2017) makes the softmax as sure as
    it was right out of fold; the order of photos stays, also where fp32 would have nothing left
    between 1 and the next probability.
    """
    return torch.softmax(logits.double() / temperature, dim=1)[:, DEFECTIVE]
