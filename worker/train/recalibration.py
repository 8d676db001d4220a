"""A model version for another camera: statistics, limits and thresholds from some good photos.

Another station has another light, lens and background. What that does to all photos alike is
taken out, because the head reads how far a photo is from good parts, and
everything that says what good parts look like is measured again. No weight is trained, so some
twenty photos are enough; no defect is needed, so none is measured either.
"""

import hashlib
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.errors import DefectScopeError, UnusableData
from shared.manifest import BY_GOOD_PARTS, DataCard, Limits, Manifest, Thresholds
from worker.inspect.autoencoder import (
    ResidualStats,
    anomaly_map,
    anomaly_score,
)
from worker.inspect.backbone import pool
from worker.inspect.bundle import (
    MODEL,
    Parts,
    ProductModel,
    artifact_of,
    check_replaceable,
    load_bundle,
    write_bundle,
    write_parts,
)
from worker.inspect.domain import Domain
from worker.inspect.engines.choice import exact_engine
from worker.inspect.engines.protocol import Engine
from worker.inspect.gradcam import GoodEvidence, evidence
from worker.inspect.head import DEFECTIVE
from worker.inspect.preprocess import Photo, prepare
from worker.inspect.reference import REFERENCE, Reference, read_reference, write_reference
from worker.train import calibration
from worker.train.autoencoder import read_errors, residual_stats
from worker.train.dataset import SUFFIXES
from worker.train.decision import ANOMALY_DEVIATIONS
from worker.train.duplicates import parts_of
from worker.train.features import COPIES, as_copy
from worker.train.good_features import mean_and_spread
from worker.train.progress import Progress, silent
from worker.train.reference import PHOTOS as REFERENCE_PHOTOS
from worker.train.reference import make_reference

MIN_PHOTOS = 10
WORTH_OF_TRAINING = 20
"""What training learnt of the spread of good parts counts as much as this many new photos."""
ALARM_DEVIATIONS = 2.33
"""One good photo in a hundred lies above the classifier's threshold: a little further from good
photos than the best F1 is on MVTec bottle (2.0) and grid (1.6)."""
NEAR_DEVIATIONS = 2.05
"""No more than one good photo in fifty lies so near that a person looks, as after training."""

_FOLDS = 5
_PHOTOS_PER_PASS = 16


def recalibrate(bundle: Path, photos: Path, *, out: Path, progress: Progress = silent) -> Manifest:
    """Write to `out` the bundle as it should be for the camera of these photos of good parts.

    `photos`: a folder of .png and .jpg files, every one of a good part. Thresholds are placed by
    photos that the statistics were not taken from, in five folds.
    Raises UnusableData naming files that cannot be used, DamagedBundle, and Conflict if `out`
    holds something else than a bundle.
    """
    out = out.resolve()
    check_replaceable(out)
    model = load_bundle(bundle)
    engine = exact_engine(model.backbone, sha256=model.manifest.backbone.sha256)
    files, read = _read(photos, progress)
    pixels = np.stack([photo.pixels for photo in read])
    part_of = _tell_parts(pixels)
    manifest = model.manifest
    copies = COPIES if manifest.augmentation.turned else 1
    maps = _features(engine, pixels, copies=copies, seed=manifest.seed, progress=progress)
    _, deviations = read_errors(model.parts.autoencoder, pixels)
    seen = _Seen(maps, deviations)

    readings = _read_out_of_fold(model.parts, seen, part_of)
    thresholds = _thresholds(manifest, readings)
    digests = {"sha256:" + hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    with tempfile.TemporaryDirectory() as scratch:
        file, reference = Path(scratch) / MODEL, Path(scratch) / REFERENCE
        parts = _adapt(model.parts, seen)
        parts = replace(parts, good_evidence=_evidence(parts, seen))
        write_parts(parts, file)
        write_reference(_reference(model, engine, parts, pixels, seen.as_they_are), reference)
        adapted = Manifest.model_validate(
            manifest.model_dump()
            | {
                "created_at": datetime.now(UTC),
                "model": artifact_of(file),
                "reference": artifact_of(reference),
                "thresholds": thresholds,
                "policy": BY_GOOD_PARTS,
                "limits": Limits.of(
                    thresholds.anomaly_score, gradcam_high=manifest.limits.gradcam_high
                ),
                "quality": calibration.quality_limits([photo.quality for photo in read]),
                "data": _data_card(manifest.data, digests),
                "recalibrated_from": model.digest,
                # The figures of the training were measured with other thresholds.
                "metrics": _metrics(manifest, readings),
                "provenance": f"{manifest.provenance} Recalibrated on {len(files)} photos of good "
                "parts from another camera; no weight was trained on them.",
            }
        )
        is_beside = (out.parent / model.backbone.name).is_file()
        write_bundle(
            out,
            adapted,
            files=[file, reference, *([model.quantised] if model.quantised else [])],
            backbone=None if is_beside else model.backbone,
        )
    return adapted


def _features(
    engine: Engine, pixels: NDArray[np.uint8], *, copies: int, seed: int, progress: Progress
) -> Tensor:
    """(N, copies, 1024, 8, 8): how good parts spread is taken from what the head was fitted to."""
    done, total = 0, copies * len(pixels)
    found: list[Tensor] = []
    for copy in range(copies):
        shown = as_copy(pixels, copy, np.random.default_rng([seed, copy]))
        of_copy: list[Tensor] = []
        for first in range(0, len(shown), _PHOTOS_PER_PASS):
            batch = shown[first : first + _PHOTOS_PER_PASS]
            of_copy.append(engine.features(batch).cpu())
            done += len(batch)
            progress("backbone", done, total)
        found.append(torch.cat(of_copy))
    return torch.stack(found, dim=1)


def _evidence(parts: Parts, seen: "_Seen") -> GoodEvidence:
    """What speaks for a defect at each cell of good parts."""
    deviations = parts.good_features.deviations(seen.as_they_are)
    return GoodEvidence(evidence(deviations, parts.head.pool(deviations), parts.head).mean(dim=0))


def _reference(
    model: ProductModel, engine: Engine, parts: Parts, pixels: NDArray[np.uint8], maps: Tensor
) -> Reference:
    """Half from the new camera, half what the bundle had: those show defects."""
    known = read_reference(model.reference).pixels
    kept = known[_evenly(len(known))]
    new = _evenly(len(pixels))
    return make_reference(
        np.concatenate([pixels[new], kept]),
        torch.cat([maps[torch.from_numpy(new)], engine.features(kept).cpu()]),
        parts,
        model.manifest.temperature,
    )


def _evenly(count: int) -> NDArray[np.int64]:
    return np.linspace(0, count - 1, min(count, REFERENCE_PHOTOS // 2)).astype(np.int64)


@dataclass(frozen=True)
class _Seen:
    """What the networks, whose weights stay, say of good photos."""

    maps: Tensor
    """(N, K, 1024, 8, 8), after norm5: the photos as they are, and the copies of them that the head
    was fitted to."""
    deviations: Tensor  # (N, 256, 256), of the autoencoder

    @property
    def as_they_are(self) -> Tensor:
        return self.maps[:, 0]

    def of(self, rows: Tensor) -> "_Seen":
        return _Seen(self.maps[rows], self.deviations[rows])


@dataclass(frozen=True)
class _Readings:
    """What bundles adapted to the other folds say of each good photo."""

    margins: Tensor  # (N,)
    anomalies: Tensor  # (N,)
    distances: Tensor  # (N,)
    part_of: Tensor  # (N,)

    def of(self, rows: Tensor) -> "_Readings":
        return _Readings(
            self.margins[rows], self.anomalies[rows], self.distances[rows], self.part_of[rows]
        )


def _tell_parts(pixels: NDArray[np.uint8]) -> Tensor:
    """The number of the part that each photo shows (N,), from 0 on.

    Raises UnusableData if they are too few.
    """
    part_of = parts_of(list(pixels))
    parts = sorted(set(part_of))
    if len(parts) < MIN_PHOTOS:
        raise UnusableData(
            f"the {len(pixels)} photos show {len(parts)} parts, some nearly the same: at least "
            f"{MIN_PHOTOS} different good parts are needed."
        )
    return torch.tensor([parts.index(part) for part in part_of])


def _read_out_of_fold(parts: Parts, seen: _Seen, part_of: Tensor) -> _Readings:
    """Photos of one part are in one fold."""
    fold_of = part_of % _FOLDS
    margins, anomalies, distances = (torch.zeros(len(fold_of)) for _ in range(3))
    for fold in range(_FOLDS):
        is_read = fold_of == fold
        adapted, read = _adapt(parts, seen.of(~is_read)), seen.of(is_read)
        pooled = adapted.head.pool(adapted.good_features.deviations(read.as_they_are))
        logits = adapted.head.logits(pooled)
        margins[is_read] = logits[:, DEFECTIVE] - logits[:, 1 - DEFECTIVE]
        strangeness = anomaly_map(read.deviations, adapted.good_residuals)
        anomalies[is_read] = anomaly_score(strangeness)
        distances[is_read] = adapted.domain.distance(pool(read.as_they_are))
    return _Readings(margins, anomalies, distances, part_of)


def _metrics(manifest: Manifest, readings: _Readings) -> dict[str, float]:
    """Shares of the good photos, each held against thresholds from the other folds."""
    fold_of = readings.part_of % _FOLDS
    alarms = anomalies = strangers = 0
    for fold in range(_FOLDS):
        read = readings.of(fold_of == fold)
        thresholds = _thresholds(manifest, readings.of(fold_of != fold))
        odds = read.margins / manifest.temperature
        alarms += int((torch.sigmoid(odds) >= thresholds.defect_probability).sum())
        anomalies += int((read.anomalies >= thresholds.anomaly_score).sum())
        strangers += int((read.distances > thresholds.domain_distance).sum())
    count = len(fold_of)
    return {
        "calibration_photos": float(count),
        "classifier_false_alarm_rate": alarms / count,
        "autoencoder_false_alarm_rate": anomalies / count,
        "out_of_domain_share": strangers / count,
    }


def _data_card(data: DataCard, digests: set[str]) -> DataCard:
    return data.model_copy(
        update={
            "calibrated_on": tuple(sorted({*data.calibrated_on, *digests})),
            "held_out": tuple(digest for digest in data.held_out if digest not in digests),
        }
    )


def _read(folder: Path, progress: Progress) -> tuple[list[Path], list[Photo]]:
    files = sorted(
        path
        for path in folder.glob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    photos: list[Photo] = []
    problems: list[str] = []
    seen: dict[str, Path] = {}
    for number, path in enumerate(files, start=1):
        try:
            data = path.read_bytes()
            photos.append(prepare(data))
            twin = seen.setdefault(hashlib.sha256(data).hexdigest(), path)
            if twin != path:
                problems.append(f"{path} is the same photo as {twin}. Remove one.")
        except (DefectScopeError, OSError) as error:
            problems.append(f"{path} cannot be used: {error}. Repair or remove it.")
        progress("reading photos", number, len(files))
    if len(files) < MIN_PHOTOS:
        problems.append(
            f"{folder} has {len(files)} .png or .jpg files, at least {MIN_PHOTOS} are needed, some "
            "twenty are better: add photos of good parts from this camera."
        )
    if problems:
        raise UnusableData(
            f"{folder} cannot be calibrated on:\n" + "\n".join(f"- {p}" for p in problems)
        )
    return files, photos


def _adapt(parts: Parts, seen: _Seen) -> Parts:
    """The parts as these photos of good parts say they should be.

    The new photos' means, and a spread between theirs and that of the training. How channels vary
    together twenty photos cannot say: that stays.
    """
    count = len(seen.maps)
    mean, std = mean_and_spread(seen.maps)
    residuals = residual_stats(seen.deviations)
    return replace(
        parts,
        good_features=replace(
            parts.good_features, mean=mean, std=_blended(parts.good_features.std, std, count)
        ),
        good_residuals=ResidualStats(
            residuals.mean, _blended(parts.good_residuals.std, residuals.std, count)
        ),
        domain=_moved(parts.domain, pool(seen.as_they_are)),
    )


def _blended(known: Tensor, new: Tensor, photos: int) -> Tensor:
    """A standard deviation between that of the training and that over so many new photos."""
    share = photos / (photos + WORTH_OF_TRAINING)
    return (share * new.square() + (1 - share) * known.square()).sqrt()


def _moved(known: Domain, fingerprints: Tensor) -> Domain:
    """The domain about the new photos: its covariance mixes what training and they have shown."""
    shift = fingerprints.mean(dim=0) - known.good_mean
    count = len(fingerprints)
    share = count / (count + WORTH_OF_TRAINING)
    spread = (known.variances - known.floor).clamp(min=0).sqrt()[:, None] * known.directions
    away = (fingerprints - fingerprints.mean(dim=0)) / np.sqrt(max(1, count - 1))
    both = torch.cat([np.sqrt(1 - share) * spread, np.sqrt(share) * away]).double()
    _, singular, directions = torch.linalg.svd(both, full_matrices=False)
    is_kept = singular > singular[0] * 1e-5
    return Domain(
        mean=known.mean + shift,
        good_mean=known.good_mean + shift,
        directions=directions[is_kept].float(),
        variances=(singular[is_kept].square().float() + known.floor),
        floor=known.floor,
    )


def _thresholds(manifest: Manifest, readings: _Readings) -> Thresholds:
    """Where good photos that had no part in the statistics say that thresholds belong."""
    old = manifest.thresholds
    odds = (readings.margins / manifest.temperature).double()
    parts = len(set(readings.part_of.tolist()))
    alarm, near = (
        calibration.upper_limit_of_symmetric(odds.numpy(), deviations=deviations, parts=parts)
        for deviations in (ALARM_DEVIATIONS, NEAR_DEVIATIONS)
    )
    half = min(
        alarm - near,
        max(0.0, _log_odds(old.defect_probability) - _log_odds(old.near_threshold_low)),
    )
    return Thresholds(
        defect_probability=_probability(alarm),
        near_threshold_low=_probability(alarm - half),
        near_threshold_high=_probability(alarm + half),
        anomaly_score=calibration.upper_limit(
            readings.anomalies.double().numpy(), deviations=ANOMALY_DEVIATIONS, parts=parts
        ),
        domain_distance=max(
            old.domain_distance, calibration.domain_limit(readings.distances.double().numpy())
        ),
    )


def _log_odds(probability: float) -> float:
    clipped = min(max(probability, 1e-9), 1 - 1e-9)
    return float(np.log(clipped / (1 - clipped)))


def _probability(log_odds: float) -> float:
    return float(1 / (1 + np.exp(-log_odds)))
