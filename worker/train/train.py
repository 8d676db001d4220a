"""From a folder of photos to a bundle: everything that training does, in order."""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError
from sklearn.metrics import roc_auc_score

from shared.errors import InvalidInput
from shared.manifest import DataCard, Limits, Manifest, ProductName, Thresholds
from worker.inspect import preprocess
from worker.inspect.bundle import (
    MODEL,
    Parts,
    artifact_of,
    check_replaceable,
    write_bundle,
    write_parts,
)
from worker.inspect.engines.torch_engine import TorchEngine
from worker.train import calibration
from worker.train.dataset import GOOD, Dataset, LabelledPhoto, read_dataset
from worker.train.domain import fit_domain
from worker.train.features import COPIES, CachedFeatures, cache_features
from worker.train.folds import FOLDS, OutOfFold, out_of_fold
from worker.train.head import train_head
from worker.train.progress import Progress, silent
from worker.train.second_opinion import SecondOpinion, make_second_opinion
from worker.train.sources import BackboneFile, obtain_backbone


def train(
    data: Path,
    *,
    product: str,
    out: Path,
    backbone: str = "bundled",
    seed: int = 0,
    photos_are: str = "photos",
    progress: Progress = silent,
    warn: Callable[[str], None] = lambda warning: None,
) -> Manifest:
    """Train a product from a folder in MVTec layout and write its bundle to `out`.

    Thresholds and limits come from out-of-fold predictions on the photos that
    were trained on; held-out photos are only listed. The same photos and seed
    give the same model, up to the rounding of the machine. The backbone goes
    into the bundle unless its file lies beside it. `photos_are` says in the
    provenance what the photos are, where they are no photos. `warn` hears what is
    odd about the folder, but no reason not to train.
    Raises UnusableData for the folder, InvalidInput for the backbone or the name,
    Conflict if `out` holds something else than a bundle.
    """
    # What can be refused is refused now, not after minutes of training.
    _check_name(product)
    check_replaceable(out)
    dataset = read_dataset(data, seed=seed, progress=progress)
    for warning in dataset.warnings:
        warn(warning)
    photos = dataset.trained_on
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        source = obtain_backbone(backbone, scratch)
        engine = TorchEngine(source.path, sha256=source.sha256)
        features = cache_features(photos, engine, seed=seed, progress=progress)
        copies, folds = _choose_copies(features, seed, progress)
        second = make_second_opinion(photos, seed=seed, progress=progress)
        parts = Parts(
            head=train_head(
                features.fingerprints[:, :copies],
                features.is_defective,
                seed=seed,
                progress=progress,
            ),
            autoencoder=second.autoencoder,
            good_residuals=second.good_residuals,
            domain=fit_domain(features.fingerprints[:, 0]),
        )
        model = scratch / MODEL
        write_parts(parts, model)
        temperature, thresholds, limits, metrics = _calibrate(folds, features, second)
        manifest = Manifest(
            product=product,
            created_at=datetime.now(UTC),
            preprocess=preprocess.VERSION,
            seed=seed,
            backbone=artifact_of(source.path),
            model=artifact_of(model),
            temperature=temperature,
            thresholds=thresholds,
            limits=limits,
            quality=calibration.quality_limits([photo.photo.quality for photo in photos]),
            defect_types=tuple(sorted({p.label for p in photos} - {GOOD})),
            data=_data_card(dataset),
            metrics={**metrics, **second.metrics},
            provenance=_provenance(source, photos, photos_are, copies),
        )
        is_beside = (out.resolve().parent / source.path.name).is_file()
        write_bundle(out, manifest, model=model, backbone=None if is_beside else source.path)
    return manifest


def _check_name(product: str) -> None:
    try:
        TypeAdapter(ProductName).validate_python(product)
    except ValidationError as error:
        raise InvalidInput(
            f"{product!r} cannot be a product's name: small letters, digits, - and _, at most 63",
            field="product",
        ) from error


def _choose_copies(
    features: CachedFeatures, seed: int, progress: Progress
) -> tuple[int, OutOfFold]:
    """Whether the head also trains on turned and mirrored copies: whichever ranks better.

    Turning a photo is harmless for a bottle from above and wrong for a part
    whose defect is lying the wrong way round. Out of fold, the data say which.
    """
    trials = {
        copies: out_of_fold(features, copies=copies, seed=seed, progress=progress)
        for copies in (COPIES, 1)
    }
    is_defective = features.is_defective.numpy()
    best = max(
        trials, key=lambda copies: float(roc_auc_score(is_defective, trials[copies].margins))
    )
    return best, trials[best]


def _calibrate(
    folds: OutOfFold, features: CachedFeatures, second: SecondOpinion
) -> tuple[float, Thresholds, Limits, dict[str, float]]:
    is_defective = features.is_defective.numpy()
    temperature = calibration.fit_temperature(folds.margins, is_defective)
    scores = calibration.probabilities(folds.margins, temperature)
    threshold = calibration.best_f1_threshold(scores, is_defective)
    low, high = calibration.near_band(scores, is_defective, threshold)
    is_called = scores >= threshold
    thresholds = Thresholds(
        defect_probability=threshold,
        near_threshold_low=low,
        near_threshold_high=high,
        anomaly_score=second.threshold,
        domain_distance=calibration.domain_limit(folds.domain_distances),
    )
    limits = Limits(
        gradcam_high=calibration.attention_limit(
            folds.attention.amax(dim=(1, 2)).double().numpy(), is_defective
        ),
        # Up to the threshold a part is good: blue. Twice as strange is as red as it gets.
        anomaly_low=second.threshold / 2,
        anomaly_high=second.threshold * 2,
    )
    metrics = {
        "folds": float(FOLDS),
        "classifier_auroc": float(roc_auc_score(is_defective, scores)),
        "classifier_f1": calibration.f1(is_called, is_defective),
        "classifier_recall": float(is_called[is_defective].mean()),
        "classifier_false_alarm_rate": float(is_called[~is_defective].mean()),
        "near_threshold_share_of_good": float(
            ((scores >= low) & (scores < high))[~is_defective].mean()
        ),
        "out_of_domain_share": float(np.mean(folds.domain_distances > thresholds.domain_distance)),
    }
    return temperature, thresholds, limits, metrics


def _data_card(dataset: Dataset) -> DataCard:
    digests = sorted(photo.sha256 for photo in dataset.trained_on)
    return DataCard(
        counts=dict(sorted(Counter(photo.label for photo in dataset.trained_on).items())),
        trained_on=tuple(digests),
        held_out=tuple(sorted({photo.sha256 for photo in dataset.held_out})),
        digest="sha256:" + hashlib.sha256("\n".join(digests).encode()).hexdigest(),
    )


def _provenance(
    source: BackboneFile, photos: Sequence[LabelledPhoto], photos_are: str, copies: int
) -> str:
    defects = sum(photo.is_defective for photo in photos)
    turned = "also turned, mirrored and relit" if copies > 1 else "as they are"
    return (
        f"Backbone: {source.provenance} Head: {len(photos) - defects} good and {defects} "
        f"defective {photos_are}, {turned}. Autoencoder: good {photos_are} only."
    )
