"""What the backbone says of good parts at each cell, and how far a photo is from that.

The rim of a bottle looks another way than its middle, so each cell of the feature maps is held
against the same cell of good parts. Channels rise and fall together there: a defect shows less in
how far one of them is off than in its being off without the others, so deviations are whitened. The
head judges by them: in the features as they are, a small defect drowns in everything that good
parts show as well.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_TINY = 1e-12


@dataclass(frozen=True)
class GoodFeatures:
    """Feature maps of good parts after norm5, cell by cell."""

    mean: Tensor  # (1024, H, W)
    std: Tensor  # (1024, H, W), with a floor
    whitening: Tensor  # (1024, 1024), symmetric

    def deviations(self, maps: Tensor) -> Tensor:
        """How far each cell is from good parts, either way, in directions that vary apart.

        maps (B, 1024, H, W) after norm5 and before the ReLU. Returns the same shape, at least 0, in
        standard deviations.
        """
        away = ((maps - self.mean) / self.std).flatten(2)
        return torch.matmul(self.whitening, away).abs_().reshape(maps.shape)


def pool_deviations(deviations: Tensor, exponent: float) -> Tensor:
    """The generalised mean over all cells (Radenovic et al. 2018): (B, 1024, H, W) to (B, 1024).

    Exponent 1 is the average. The larger it is, the more the cells count that are furthest off, so
    that a small defect does not drown in what is good around it.
    """
    if exponent == 1.0:
        return deviations.mean(dim=(2, 3))
    # By the largest first: powers of large deviations would not fit into fp32.
    peaks = deviations.amax(dim=(2, 3), keepdim=True).clamp(min=_TINY)
    means = _power(deviations / peaks, exponent).mean(dim=(2, 3))
    return means.pow(1 / exponent) * peaks[:, :, 0, 0]


def shares_of(deviations: Tensor, pooled: Tensor, exponent: float) -> Tensor:
    """What each cell has of its generalised mean (B, 1024): (B, 1024, H, W), whose mean it is.

    A cell times the mean's derivative by it, times the number of cells; in the average, itself.
    """
    if exponent == 1.0:
        return deviations
    pooled = pooled.clamp(min=_TINY)[:, :, None, None]
    return _power(deviations / pooled, exponent) * pooled


def _power(base: Tensor, exponent: float) -> Tensor:
    """Squared as often as that will do: a general power takes as long as the head does."""
    while exponent > 1 and exponent % 2 == 0:
        base, exponent = base.square(), exponent / 2
    return base if exponent == 1.0 else base.pow(exponent)
