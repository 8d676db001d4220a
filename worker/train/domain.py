"""Fitting of the in-domain distance. scikit-learn is needed here, never when serving."""

import numpy as np
import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor

from worker.inspect.domain import Domain


def fit_domain(fingerprints: Tensor, is_defective: Tensor) -> Domain:
    """Mean and Ledoit-Wolf covariance of fingerprints (N, 1024) of good and defective photos.

    Shrinking adds a constant to every variance of the sample covariance, and
    that has at most N - 1 directions: they and the constant are the whole matrix.
    """
    sample = fingerprints.double().numpy()
    shrinkage = float(LedoitWolf(store_precision=False).fit(sample).shrinkage_)
    centred = sample - sample.mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    variances = singular**2 / len(sample)
    is_kept = variances > variances[0] * 1e-9
    floor = shrinkage * variances.sum() / sample.shape[1]
    return Domain(
        mean=torch.from_numpy(sample.mean(axis=0)).float(),
        good_mean=fingerprints[~is_defective].mean(dim=0),
        directions=torch.from_numpy(directions[is_kept]).float(),
        variances=torch.from_numpy((1 - shrinkage) * variances[is_kept] + floor).float(),
        floor=torch.tensor(floor, dtype=torch.float32),
    )
