"""Fitting of what the backbone says of good parts."""

import torch
from torch import Tensor

from worker.inspect.good_features import GoodFeatures

WORTH_OF_CHANNEL = 20
"""How a channel spreads over all cells counts as much as this many photos at one cell."""


def fit_good_features(maps: Tensor) -> GoodFeatures:
    """Mean and spread at each cell over photos of good parts, their copies included.

    maps (N, K, 1024, H, W): K copies of N photos. With few photos the variance at one cell is
    little more than chance, so the fewer there are, the more the mean over all cells counts. A
    channel that never changes on this product says nothing; dividing by its noise would shout.
    """
    # Photo by photo: all of them in double precision would take eight times their memory.
    total = torch.zeros(maps.shape[2:], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for photo in maps:
        exact = photo.double()
        total += exact.mean(dim=0)
        squares += exact.square().mean(dim=0)
    mean = total / len(maps)
    variance = (squares / len(maps) - mean.square()).clamp(min=0)
    share = len(maps) / (len(maps) + WORTH_OF_CHANNEL)
    of_channel = variance.mean(dim=(1, 2), keepdim=True)
    std = (share * variance + (1 - share) * of_channel).sqrt().float()
    return GoodFeatures(mean.float(), std.clamp(min=1e-3 * float(std.max())))
