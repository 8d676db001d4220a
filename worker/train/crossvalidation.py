"""Out-of-fold readings: what models say of training photos that they were not fitted on.

Everything that a bundle holds is fitted anew for each fold: head, domain and autoencoder. The
readings are what thresholds come from, and what the figures of a training are measured on.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor

from shared.errors import InvalidInput
from worker.inspect.autoencoder import anomaly_map, anomaly_score
from worker.inspect.gradcam import evidence
from worker.inspect.head import DEFECTIVE
from worker.train.autoencoder import read_errors, residual_stats, staged_autoencoder
from worker.train.dataset import LabelledPhoto
from worker.train.domain import fit_domain
from worker.train.features import CachedFeatures, Shown, hold_against
from worker.train.head import fit_classifier
from worker.train.progress import Progress, silent
from worker.train.stages import Stages

FOLDS = 5


@dataclass(frozen=True)
class AutoencoderReadings:
    """What the autoencoders of the folds say of each photo."""

    mses: NDArray[np.float64]  # (N,)
    deviations: Tensor  # (N, 256, 256), see `autoencoder.deviation`
    strangeness: Tensor  # (N, 256, 256): standard deviations, by the good photos of other folds

    @property
    def scores(self) -> NDArray[np.float64]:
        """Anomaly scores (N,)."""
        return anomaly_score(self.strangeness).double().numpy()


@dataclass(frozen=True)
class ClassifierReadings:
    """What the heads and domains of the folds say of each photo."""

    margins: NDArray[np.float64]  # (N,): logit of defective minus logit of good
    synthetic_margins: NDArray[np.float64]
    """(N,): of a good photo with synthetic defects, by the head of its fold; NaN for others."""
    evidence: Tensor  # (N, 8, 8), Grad-CAM before its ReLU
    domain_distances: NDArray[np.float64]  # (N,)
    synthetic_distances: NDArray[np.float64]  # (N,), as synthetic_margins


def draw_folds(photos: Sequence[LabelledPhoto], *, folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each photo (N,): good and defective ones shared out as evenly as can be.

    Photos of one group, near-duplicates of each other, are in one fold.
    Raises InvalidInput if there are fewer good parts than folds.
    """
    parts = len({photo.group for photo in photos if not photo.is_defective})
    if folds > parts:
        raise InvalidInput(
            f"{folds} folds are more than the {parts} good parts that there are photos of: choose "
            f"at most {parts}",
            field="folds",
        )
    labels = np.array([photo.is_defective for photo in photos])
    groups = np.array([photo.group for photo in photos])
    fold_of = np.zeros(len(photos), np.int64)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Fewer defects than folds: some folds have none to read, and that is all.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        for number, (_, read) in enumerate(splitter.split(labels, labels, groups)):
            fold_of[read] = number
    return fold_of


def split_folds(fold_of: NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows to fit on and rows to read, fold by fold."""
    for number in range(int(fold_of.max()) + 1):
        is_read = torch.from_numpy(fold_of == number)
        yield torch.nonzero(~is_read)[:, 0], torch.nonzero(is_read)[:, 0]


def read_classifier(
    features: CachedFeatures,
    fold_of: NDArray[np.int64],
    *,
    shown: Shown,
    seed: int,
    progress: Progress = silent,
) -> ClassifierReadings:
    """Fit head and domain on all folds but one, read the rest, fold by fold.

    All copies of a photo and its damaged versions are in its fold; only the photo as it is gets
    read.
    """
    count = len(features.is_defective)
    margins, synthetic = torch.zeros(count), torch.full((count,), torch.nan)
    evidences = torch.zeros(count, *features.maps.shape[3:])
    distances, synthetic_distances = torch.zeros(count), torch.full((count,), torch.nan)
    fingerprints, damaged_fingerprints = features.fingerprints, features.synthetic_fingerprints
    for number, (fitted, read) in enumerate(split_folds(fold_of), start=1):
        good, head = fit_classifier(features, fitted, shown=shown, seed=seed)
        pooled = hold_against(features, read, good, shown=Shown(1, shown.exponent))
        margins[read] = _margin(head.logits(pooled.photos[:, 0]))
        damaged = _margin(head.logits(pooled.synthetic[:, 0]))
        synthetic[read] = damaged.masked_fill(pooled.is_defective, torch.nan)
        for row, photo in zip(read.tolist(), pooled.photos, strict=True):
            deviations = good.deviations(features.maps[row, :1].float())
            evidences[row] = evidence(deviations, photo[:1], head)[0]
        domain = fit_domain(fingerprints[fitted], features.is_defective[fitted])
        distances[read] = domain.distance(fingerprints[read])
        synthetic_distances[read] = domain.distance(damaged_fingerprints[read]).masked_fill(
            pooled.is_defective, torch.nan
        )
        progress("heads of the folds", number, int(fold_of.max()) + 1)
    return ClassifierReadings(
        margins.double().numpy(),
        synthetic.double().numpy(),
        evidences,
        distances.double().numpy(),
        synthetic_distances.double().numpy(),
    )


def _margin(logits: Tensor) -> Tensor:
    return logits[:, DEFECTIVE] - logits[:, 1 - DEFECTIVE]


def read_autoencoder(
    photos: Sequence[LabelledPhoto],
    fold_of: NDArray[np.int64],
    *,
    seed: int,
    stages: Stages,
    progress: Progress = silent,
) -> AutoencoderReadings:
    """Fit an autoencoder to the good photos of all folds but one, read the rest, fold by fold."""
    pixels = np.stack([photo.photo.pixels for photo in photos])
    is_good = ~torch.tensor([photo.is_defective for photo in photos])
    mses, deviations = torch.zeros(len(pixels)), torch.zeros(pixels.shape[:3])
    for number, (fitted, read) in enumerate(split_folds(fold_of), start=1):
        autoencoder = staged_autoencoder(
            f"autoencoder-fold-{number}",
            pixels[fitted[is_good[fitted]].numpy()],
            seed=seed,
            stages=stages,
            progress=progress,
        )
        mses[read], deviations[read] = read_errors(autoencoder, pixels[read.numpy()])
    strangeness = torch.zeros_like(deviations)
    for fitted, read in split_folds(fold_of):
        good = residual_stats(deviations[fitted[is_good[fitted]]])
        strangeness[read] = anomaly_map(deviations[read], good)
    return AutoencoderReadings(mses.double().numpy(), deviations, strangeness)
