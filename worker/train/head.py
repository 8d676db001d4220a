"""Training of the classifier head on deviations from good parts, as in the walkthrough.

Adam at 1e-4, cosine decay, class-weighted cross-entropy, dropout 0.4, until it
has converged.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worker.inspect.good_features import GoodFeatures
from worker.inspect.head import Head
from worker.train.features import CachedFeatures, PooledDeviations, Shown, hold_against
from worker.train.good_features import fit_good_features
from worker.train.progress import Progress, silent

LEARNING_RATE = 1e-4
DROPOUT = 0.4
HIDDEN = 256
STEPS = 8000
_BATCH = 128

ENOUGH_DEFECTS = 10
"""With fewer real defects, synthetic ones fill up what is missing; with as many, there are none:
on MVTec bottle with 34 real ones, synthetic ones that weighed as 8 cost 0.007 of AUROC."""


@dataclass(frozen=True)
class Sample:
    """What a head is fitted to."""

    pooled: Tensor  # (M, 1024)
    is_defective: Tensor  # (M,) bool
    weights: Tensor  # (M,), sum 1; good and defective weigh the same


def sample_of(pooled: PooledDeviations) -> Sample:
    """All photos in all their copies.

    Where there are few real defects, synthetic ones on the good photos weigh as much as those
    that are missing.
    """
    is_defective = pooled.is_defective
    parts = [
        pooled.photos[~is_defective].flatten(0, 1),
        pooled.photos[is_defective].flatten(0, 1),
        pooled.synthetic[~is_defective].flatten(0, 1),
    ]
    of_real = 0.5 * min(1.0, int(is_defective.sum()) / ENOUGH_DEFECTS)
    shares = [0.5, of_real, 0.5 - of_real]
    if of_real == 0.5:
        parts, shares = parts[:2], shares[:2]
    return Sample(
        torch.cat(parts),
        torch.cat([torch.full((len(part),), index > 0) for index, part in enumerate(parts)]),
        torch.cat(
            [
                torch.full((len(part),), share / max(1, len(part)))
                for part, share in zip(parts, shares, strict=True)
            ]
        ),
    )


def fit_classifier(
    features: CachedFeatures, rows: Tensor, *, shown: Shown, seed: int, progress: Progress = silent
) -> tuple[GoodFeatures, Head]:
    """What good parts look like, and the head that judges deviations from them, by these rows."""
    good = fit_good_features(features.maps[rows[~features.is_defective[rows]], : shown.copies])
    sample = sample_of(hold_against(features, rows, good, shown=shown))
    return good, train_head(sample, exponent=shown.exponent, seed=seed, progress=progress)


def standardisation_of(pooled: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread (1024,) of what is read, over a sample (M, 1024).

    A channel that never changes on this product says nothing; dividing by its noise would shout.
    """
    std = pooled.std(dim=0)
    return pooled.mean(dim=0), std.clamp(min=1e-3 * float(std.max()))


def train_head(sample: Sample, *, exponent: float, seed: int, progress: Progress = silent) -> Head:
    """Train on a sample, pooled with this exponent; the same seed gives the same head.

    The standardisation of the inputs is folded into the first layer.
    """
    labels = sample.is_defective.long()
    mean, std = standardisation_of(sample.pooled)
    inputs = (sample.pooled - mean) / std
    weights = sample.weights * len(labels)

    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden = nn.Linear(inputs.shape[1], HIDDEN)
        output = nn.Linear(HIDDEN, 2)
        layers = nn.Sequential(hidden, nn.ReLU(), nn.Dropout(DROPOUT), output).train()
        optimiser = torch.optim.Adam(layers.parameters(), lr=LEARNING_RATE, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
        for step in range(1, STEPS + 1):
            rows = torch.randint(len(labels), (_BATCH,), generator=generator)
            losses = F.cross_entropy(layers(inputs[rows]), labels[rows], reduction="none")
            loss = (losses * weights[rows]).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            if step % 100 == 0:
                progress("head", step, STEPS)

    weight = hidden.weight.detach() / std
    return Head(
        hidden_weight=weight,
        hidden_bias=hidden.bias.detach() - weight @ mean,
        output_weight=output.weight.detach(),
        output_bias=output.bias.detach(),
        exponent=torch.tensor(exponent),
    )
