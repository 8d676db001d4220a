"""The second opinion: an autoencoder that has only ever seen good parts.

Its error is compared pixel by pixel with the error on good parts, so that an
edge that is always hard to rebuild counts for little and a speck on a plain
face for much. The plain mean squared error is reported, never decided on.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worker.inspect.inputs import to_autoencoder_input

CODE_CHANNELS = 4
"""The bottleneck is 8 x 8 x 4 numbers for 256 x 256 x 3: nothing is copied through."""
SMOOTHING_PX = 11
"""Of the squared errors, before they are compared."""
SURROUNDINGS_PX = 21
"""Over which the anomaly map averages: two thirds of a cell of the Grad-CAM, each way."""

_WIDTHS = (32, 64, 96, 128)
_PATCH = 4
"""The first layer takes, and the last paints, squares of 4 x 4 pixels: most of the
time would go into the full size otherwise, and the errors are smoothed anyway."""


class Autoencoder(nn.Module):
    """Squeezes a photo through 8 x 8 x 4 numbers and paints it again."""

    def __init__(self) -> None:
        super().__init__()
        first, *deeper = _WIDTHS
        encoder = _block(nn.Conv2d(3, first, 2 * _PATCH, _PATCH, _PATCH // 2, bias=False))
        channels = first
        for width in deeper:
            encoder += _block(nn.Conv2d(channels, width, 4, 2, 1, bias=False))
            channels = width
        decoder: list[nn.Module] = [nn.Conv2d(CODE_CHANNELS, channels, 1)]
        for width in reversed(_WIDTHS[:-1]):
            decoder += _block(nn.ConvTranspose2d(channels, width, 4, 2, 1, bias=False))
            channels = width
        decoder += [nn.Conv2d(channels, 3 * _PATCH**2, 3, padding=1), nn.PixelShuffle(_PATCH)]
        self.encoder = nn.Sequential(*encoder, nn.Conv2d(_WIDTHS[-1], CODE_CHANNELS, 1))
        self.decoder = nn.Sequential(*decoder)

    def forward(self, photos: Tensor) -> Tensor:
        """Rebuild photos (B, 3, 256, 256) in [0, 1]; returns the same shape."""
        rebuilt: Tensor = torch.sigmoid(self.decoder(self.encoder(photos)))
        return rebuilt


def _block(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.LeakyReLU(0.1)]


@dataclass(frozen=True)
class ResidualStats:
    """What the deviations of good parts look like, pixel by pixel."""

    mean: Tensor  # (H, W)
    std: Tensor  # (H, W), with a floor: no pixel is ever exactly the same


def mean_squared_error(photos: Tensor, rebuilt: Tensor) -> Tensor:
    """The MSE of each photo: two (B, 3, H, W) in [0, 1] to (B,)."""
    return (photos - rebuilt).square().mean(dim=(1, 2, 3))


def smooth(maps: Tensor, side: int) -> Tensor:
    """Mean over `side` x `side` pixels, odd, (B, H, W) to (B, H, W): noise goes, defects stay.

    At the border only pixels inside the photo count.
    """
    # Along the rows, then along the columns: the same means, in a tenth of the time. With one
    # dimension as channels, engines pool many of them at once.
    half = side // 2
    along = F.avg_pool1d(maps, side, 1, half, count_include_pad=False).transpose(1, 2)
    return F.avg_pool1d(along, side, 1, half, count_include_pad=False).transpose(1, 2)


def deviation(photos: Tensor, rebuilt: Tensor) -> Tensor:
    """How far roots of grey values are from each other: two (B, 3, H, W) in [0, 1] to (B, H, W).

    A camera counts photons, and their noise grows with the root of their number: between roots the
    same difference is as sure in the dark as in the light (Anscombe 1948). Squares of errors have a
    long tail, and its few largest values would rule mean and deviation: what is returned is the
    root of the smoothed squares.
    """
    squares = (_root(photos) - _root(rebuilt)).square().mean(dim=1)
    return torch.sqrt(smooth(squares, SMOOTHING_PX))


def _root(grey: Tensor) -> Tensor:
    # Between 0 and the next grey value there is nothing but rounding.
    return torch.sqrt(grey.clamp(min=1 / 255))


def anomaly_map(deviations: Tensor, good: ResidualStats) -> Tensor:
    """How far each pixel's surroundings are from good parts, in standard deviations.

    Either way counts: where a rim is missing, the autoencoder's error is smaller than ever. The
    mean over the surroundings keeps single pixels from deciding. deviations (B, H, W) as
    `deviation` gives them. Returns (B, H, W), at least 0. Raises ValueError if the statistics
    were taken at another size.
    """
    if deviations.shape[1:] != good.mean.shape:
        raise ValueError(
            f"deviations of {tuple(deviations.shape[1:])} against statistics "
            f"of {tuple(good.mean.shape)}"
        )
    return smooth(((deviations - good.mean) / good.std).abs(), SURROUNDINGS_PX)


def anomaly_score(anomaly_maps: Tensor) -> Tensor:
    """The strangest pixel of each photo: (B, H, W) to (B,)."""
    return anomaly_maps.amax(dim=(1, 2))


def second_opinion(
    photos: Tensor, autoencoder: Autoencoder, good: ResidualStats
) -> tuple[Tensor, Tensor]:
    """MSE and anomaly map of each photo: (B, 256, 256, 3) RGB, 0 to 255, to (B,) and (B, 256, 256).

    Photos, autoencoder and statistics are on one device.
    """
    inputs = to_autoencoder_input(photos)
    rebuilt = autoencoder(inputs)
    strangeness = anomaly_map(deviation(inputs, rebuilt), good)
    return mean_squared_error(inputs, rebuilt), strangeness
