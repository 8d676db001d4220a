"""Which photos a bundle keeps as its reference, and what plain fp32 says of them."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.inspect.autoencoder import anomaly_score, second_opinion
from worker.inspect.backbone import pool
from worker.inspect.bundle import Parts
from worker.inspect.head import defect_probability
from worker.inspect.reference import Reference

PHOTOS = 24
"""Half of them good, half defective, where there are any."""


def choose_reference(
    margins: NDArray[np.float64], is_defective: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Rows of the photos to keep: from the clearest to the most doubtful, evenly by rank."""
    chosen: list[NDArray[np.int64]] = []
    for among in (is_defective, ~is_defective):
        rows = np.flatnonzero(among)
        ranked = rows[np.argsort(margins[rows], kind="stable")]
        room = PHOTOS // 2 if not chosen else PHOTOS - len(chosen[0])
        places = np.linspace(0, len(ranked) - 1, min(room, len(ranked))).astype(int)
        chosen.append(ranked[places])
    return np.concatenate(chosen)


@torch.inference_mode()
def make_reference(
    pixels: NDArray[np.uint8], maps: Tensor, parts: Parts, temperature: float
) -> Reference:
    """pixels (N, 256, 256, 3) RGB; maps (N, 1024, 8, 8), their features in fp32."""
    pooled = parts.head.pool(parts.good_features.deviations(maps))
    _, anomalies = second_opinion(torch.as_tensor(pixels), parts.autoencoder, parts.good_residuals)
    return Reference(
        pixels,
        defect_probability(parts.head.logits(pooled), temperature).float().numpy(),
        anomaly_score(anomalies).numpy(),
        parts.domain.distance(pool(maps)).numpy(),
    )
