"""Training of the autoencoder on good parts, and the statistics of its errors."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from worker.inspect.autoencoder import (
    Autoencoder,
    ResidualStats,
    deviation,
    mean_squared_error,
)
from worker.inspect.backbone import freeze
from worker.inspect.bundle import rounded
from worker.inspect.inputs import to_autoencoder_input
from worker.train.progress import Progress, silent
from worker.train.stages import Stages

STEPS = 700
LEARNING_RATE = 2e-3
_BATCH = 16


def train_autoencoder(
    good: NDArray[np.uint8], *, seed: int, progress: Progress = silent
) -> Autoencoder:
    """Train on photos of good parts (N, 256, 256, 3); the same seed gives the same weights.

    The weights come back as a bundle stores them, rounded to fp16.
    """
    # Where the processor multiplies bfloat16 itself, that takes half the time.
    capabilities = torch.cpu.get_capabilities()
    fast = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Transposed convolutions in the default layout are six times slower on CPUs.
        autoencoder = Autoencoder().train()
        for weight in autoencoder.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        optimiser = torch.optim.AdamW(autoencoder.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, LEARNING_RATE, total_steps=STEPS, pct_start=0.1
        )
        for step in range(1, STEPS + 1):
            rows = torch.randint(len(good), (_BATCH,), generator=generator)
            photos = to_autoencoder_input(good[rows.numpy()])
            photos = photos.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                rebuilt = autoencoder(photos)
            loss = F.mse_loss(rebuilt.float(), photos)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            progress("autoencoder", step, STEPS)
    return rounded(autoencoder)


@torch.inference_mode()
def read_errors(autoencoder: Autoencoder, photos: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """MSE and deviations of photos (N, 256, 256, 3): (N,) and (N, 256, 256)."""
    mses: list[Tensor] = []
    deviations: list[Tensor] = []
    for first in range(0, len(photos), _BATCH):
        inputs = to_autoencoder_input(photos[first : first + _BATCH])
        rebuilt = autoencoder(inputs)
        mses.append(mean_squared_error(inputs, rebuilt))
        deviations.append(deviation(inputs, rebuilt))
    return torch.cat(mses), torch.cat(deviations)


def residual_stats(deviations: Tensor) -> ResidualStats:
    """Mean and spread of the deviations of good parts, (N, H, W), pixel by pixel.

    Few photos show little of what a pixel may do, so no pixel's spread counts
    as less than the upper quartile of all: on photos of MVTec bottle that gave
    0.978 AUROC, the lower quartile 0.976.
    """
    std = deviations.std(dim=0)
    floor = torch.quantile(std.flatten(), 0.75)
    return ResidualStats(deviations.mean(dim=0), std.clamp(min=float(floor)))


def staged_autoencoder(
    name: str,
    good: NDArray[np.uint8],
    *,
    seed: int,
    stages: Stages,
    progress: Progress = silent,
) -> Autoencoder:
    """`train_autoencoder`, or what a killed training has left of it."""

    def make() -> dict[str, Tensor]:
        return train_autoencoder(
            good, seed=seed, progress=lambda _, done, total: progress(name, done, total)
        ).state_dict()

    autoencoder = Autoencoder()
    autoencoder.load_state_dict(stages.once(name, make))
    freeze(autoencoder)
    return autoencoder
