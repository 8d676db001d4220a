"""Is this a photo of the product at all? Distance of its fingerprint to those of training.

Mahalanobis distance (Lee et al. 2018) under a shrunk covariance (Ledoit and
Wolf 2004). With n training photos that covariance is a constant everywhere but
in n - 1 directions, so only those directions are stored.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Domain:
    """Where the training fingerprints lie."""

    mean: Tensor  # (1024,)
    good_mean: Tensor  # (1024,), of the good photos alone: where another camera is held against
    directions: Tensor  # (R, 1024), orthonormal
    variances: Tensor  # (R,), of the shrunk covariance along each direction
    floor: Tensor  # (), its variance along every other direction

    def distance(self, fingerprints: Tensor) -> Tensor:
        """Mahalanobis distance of each fingerprint to the training fingerprints.

        (B, 1024) to (B,), unitless; about the square root of 1024 is usual.
        """
        away = fingerprints - self.mean
        along = away @ self.directions.T  # (B, R)
        rest = away - along @ self.directions
        squared = (along.square() / self.variances).sum(dim=1)
        return torch.sqrt(squared + rest.square().sum(dim=1) / self.floor)
