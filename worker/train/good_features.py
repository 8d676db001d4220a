"""Fitting of what the backbone says of good parts."""

import torch
from torch import Tensor

from worker.inspect.good_features import GoodFeatures

WORTH_OF_CHANNEL = 20
"""How a channel spreads over all cells counts as much as this many photos at one cell."""
SHRINKAGE = 0.01
"""Of the covariance towards the same variance in all directions: what good parts never do has some
spread as well."""


def fit_good_features(maps: Tensor) -> GoodFeatures:
    """Mean and spread at each cell over photos of good parts, their copies included, and how the
    channels vary together.

    maps (N, K, 1024, H, W): K copies of N photos.
    """
    mean, std = mean_and_spread(maps)
    return GoodFeatures(mean, std, _whitening(maps, mean, std))


def mean_and_spread(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Of maps (N, K, 1024, H, W), each (1024, H, W).

    With few photos the variance at one cell is little more than chance, so the fewer there are,
    the more the mean over all cells counts. A channel that never changes on this product says
    nothing; dividing by its noise would shout.
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
    return mean.float(), std.clamp(min=1e-3 * float(std.max()))


def _whitening(maps: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The symmetric square root (1024, 1024) of the inverse of the channels' covariance.

    One covariance for all cells: no single cell has been seen as often as there are channels.
    """
    channels = len(mean)
    covariance = torch.zeros(channels, channels)
    for photo in maps:
        away = ((photo.float() - mean) / std).transpose(0, 1).flatten(1)  # (1024, K * H * W)
        covariance += away @ away.T / away.shape[1]
    covariance /= len(maps)
    variances, directions = torch.linalg.eigh(covariance.double())
    floor = variances.mean().clamp(min=1e-12)
    shrunk = (1 - SHRINKAGE) * variances.clamp(min=0) + SHRINKAGE * floor
    whitening: Tensor = (directions * shrunk.rsqrt()) @ directions.T
    return whitening.float()
