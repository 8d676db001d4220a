"""What the backbone says of good parts at each cell, and how far a photo is from that.

The rim of a bottle looks another way than its middle, so each cell of the feature maps is held
against the same cell of good parts. The head judges by these deviations: in the features as they
are, a small defect drowns in everything that good parts show as well.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class GoodFeatures:
    """Feature maps of good parts after norm5, cell by cell."""

    mean: Tensor  # (1024, H, W)
    std: Tensor  # (1024, H, W), with a floor

    def deviations(self, maps: Tensor) -> Tensor:
        """How far each cell is from good parts, either way, in standard deviations.

        maps (B, 1024, H, W) after norm5 and before the ReLU. Returns the same shape, at least 0.
        """
        return ((maps - self.mean) / self.std).abs_()


def pool_deviations(deviations: Tensor) -> Tensor:
    """What the head reads: the mean over all cells, (B, 1024, H, W) to (B, 1024)."""
    return deviations.mean(dim=(2, 3))
