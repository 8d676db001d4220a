"""The autoencoder of a product with its statistics, threshold and scale, from good photos alone.

A share of the good photos is kept from the weights. On those the errors are
what they will be on parts of tomorrow; on the fitted ones they are too small.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor

from worker.inspect.autoencoder import Autoencoder, ResidualStats, anomaly_map, anomaly_score
from worker.train.autoencoder import residual_stats, residuals_of, train_autoencoder
from worker.train.calibration import upper_limit
from worker.train.dataset import LabelledPhoto
from worker.train.progress import Progress, silent

CALIBRATION_SHARE = 0.25
THRESHOLD_DEVIATIONS = 2.0
"""Some 2 % of good parts lie above: each is a disagreement that a person looks at."""


@dataclass(frozen=True)
class SecondOpinion:
    autoencoder: Autoencoder
    good_residuals: ResidualStats
    threshold: float
    """Anomaly score from which on a part is called anomalous."""
    metrics: dict[str, float]
    """AUROC on good photos kept from the weights, against the defects of training."""


def make_second_opinion(
    photos: Sequence[LabelledPhoto], *, seed: int, progress: Progress = silent
) -> SecondOpinion:
    """Train on most of the good photos, calibrate on the rest; defects are only measured on."""
    good = [photo.photo.pixels for photo in photos if not photo.is_defective]
    order = np.random.default_rng(seed).permutation(len(good))
    kept = round(CALIBRATION_SHARE * len(good))
    calibration = np.stack([good[index] for index in order[:kept]])
    fitted = np.stack([good[index] for index in order[kept:]])
    autoencoder = train_autoencoder(fitted, seed=seed, progress=progress)
    good_residuals = residual_stats(residuals_of(autoencoder, fitted))
    on_good = residuals_of(autoencoder, calibration)
    scores = _scores(on_good, good_residuals)
    defects = np.stack([photo.photo.pixels for photo in photos if photo.is_defective])
    on_defects = residuals_of(autoencoder, defects)
    return SecondOpinion(
        autoencoder,
        good_residuals,
        upper_limit(scores, deviations=THRESHOLD_DEVIATIONS),
        {
            "autoencoder_auroc": _auroc(scores, _scores(on_defects, good_residuals)),
            "autoencoder_mse_auroc": _auroc(_mse(on_good), _mse(on_defects)),
        },
    )


def _scores(residuals: Tensor, good: ResidualStats) -> NDArray[np.float64]:
    with torch.inference_mode():
        return anomaly_score(anomaly_map(residuals, good)).double().numpy()


def _mse(residuals: Tensor) -> NDArray[np.float64]:
    return residuals.mean(dim=(1, 2)).double().numpy()


def _auroc(good: NDArray[np.float64], defective: NDArray[np.float64]) -> float:
    labels = np.r_[np.zeros(len(good)), np.ones(len(defective))]
    return float(roc_auc_score(labels, np.r_[good, defective]))
