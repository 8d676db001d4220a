"""Out-of-fold readings: what models say of training photos that they were not fitted on."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from worker.inspect.gradcam import gradcam
from worker.inspect.head import DEFECTIVE
from worker.train.domain import fit_domain
from worker.train.features import CachedFeatures
from worker.train.head import train_head
from worker.train.progress import Progress, silent

FOLDS = 5


@dataclass(frozen=True)
class OutOfFold:
    """One entry for each training photo, by models of the folds that it is not in."""

    margins: NDArray[np.float64]  # (N,): logit of defective minus logit of good
    attention: Tensor  # (N, 8, 8), raw Grad-CAM
    domain_distances: NDArray[np.float64]  # (N,)


def out_of_fold(
    features: CachedFeatures, *, copies: int, seed: int, progress: Progress = silent
) -> OutOfFold:
    """Fit head and domain on four fifths, read the rest, five times over.

    `copies`: how many of the cached copies of each photo the heads are trained on.
    All copies of a photo are in the same fold; only the photo as it is gets read.
    """
    labels = features.is_defective
    margins = torch.zeros(len(labels))
    attention = torch.zeros(len(labels), *features.maps.shape[2:])
    distances = torch.zeros(len(labels))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for number, (fitted, read) in enumerate(folds.split(labels, labels), start=1):
        head = train_head(features.fingerprints[fitted, :copies], labels[fitted], seed=seed)
        domain = fit_domain(features.fingerprints[fitted, 0])
        fingerprints = features.fingerprints[read, 0]
        logits = head.logits(fingerprints)
        margins[read] = logits[:, DEFECTIVE] - logits[:, 1 - DEFECTIVE]
        attention[read] = gradcam(features.maps[read], fingerprints, head)
        distances[read] = domain.distance(fingerprints)
        progress(f"folds, {copies} of each photo", number, FOLDS)
    return OutOfFold(margins.double().numpy(), attention, distances.double().numpy())
