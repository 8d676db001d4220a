"""From a folder of photos to a bundle: everything that training does, in order."""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from sklearn.metrics import roc_auc_score

from shared.errors import Conflict, InvalidInput, UnusableData
from shared.manifest import Augmentation, DataCard, Manifest, ProductName
from worker.inspect import preprocess
from worker.inspect.bundle import (
    MODEL,
    Parts,
    artifact_of,
    check_replaceable,
    write_bundle,
    write_parts,
)
from worker.inspect.engines.choice import exact_engine
from worker.inspect.engines.protocol import Engine
from worker.inspect.reference import REFERENCE, Reference, write_reference
from worker.train.autoencoder import residual_stats, staged_autoencoder
from worker.train.calibration import Policy
from worker.train.crossvalidation import (
    FOLDS,
    draw_folds,
    read_autoencoder,
    read_classifier,
)
from worker.train.dataset import GOOD, Dataset, LabelledPhoto, read_dataset
from worker.train.decision import (
    Readings,
    fit_decider,
    fit_evidence,
    fit_limits,
    judge_out_of_fold,
)
from worker.train.domain import fit_domain
from worker.train.features import GAIN, CachedFeatures, Shown, cache_features
from worker.train.head import ENOUGH_DEFECTS, fit_classifier
from worker.train.judged import JudgedPhoto, row
from worker.train.localisation import read_masks
from worker.train.metrics import measure, out_of_fold
from worker.train.progress import Progress, silent
from worker.train.quantisation import quantise
from worker.train.reference import choose_reference, make_reference
from worker.train.report import Pictures, PictureSource, draw_pictures, write_report
from worker.train.selection import choose, read_probes
from worker.train.sources import BackboneFile, obtain_backbone
from worker.train.stages import Stages, computed_by, exclusively

_FIGURES = ("auroc", "average_precision", "f1", "recall", "false_alarm_rate")


def train(
    data: Path,
    *,
    more: Sequence[Path] = (),
    product: str,
    out: Path,
    backbone: str = "bundled",
    folds: int | None = None,
    policy: str = "best-f1",
    seed: int = 0,
    report: Path | None = None,
    photos_are: str = "photos",
    progress: Progress = silent,
    warn: Callable[[str], None] = lambda warning: None,
) -> Manifest:
    """Train a product from a folder in MVTec layout and write its bundle to `out`.

    `more`: further folders, of photos that people decided since; see `read_dataset`.

    Without `folds`, what the folder's split keeps for the test is held out; with it, all photos
    are trained on, and only the figures of that many folds speak for the model. Thresholds and
    limits come from out-of-fold readings in either case, the thresholds by `policy`
    (see `calibration.Policy`). `report`: a folder for the figures out of fold as HTML and JSON.

    The same photos and seed give the same model, up to the rounding of the machine. A killed
    training goes on where it was when it is called again. The backbone goes into the bundle
    unless its file lies beside it. `photos_are` says in the provenance what the photos are,
    where they are no photos. `warn` hears what is odd about the folder, but no reason not to
    train.
    Raises UnusableData for the folder, InvalidInput for the backbone, the name, the policy or the
    number of folds, Conflict if `out` holds something else than a bundle or another training
    writes to it.
    """
    # What can be refused is refused now, not after minutes of training.
    _check_name(product)
    chosen_policy = Policy(policy)
    out = out.resolve()
    check_replaceable(out)
    if report is not None and report.exists() and not report.is_dir():
        raise Conflict(f"{report} is a file: name a folder for the report")
    dataset = read_dataset(data, more=more, seed=seed, hold_out=folds is None, progress=progress)
    for warning in dataset.warnings:
        warn(warning)
    photos = dataset.trained_on
    masks, unreadable = read_masks([photo.path for photo in photos])
    if unreadable:
        raise UnusableData(f"{data} cannot be trained on:\n" + "\n".join(unreadable))
    fold_of = draw_folds(photos, folds=folds or FOLDS, seed=seed)
    unfinished = out.with_name(f".{out.name}.unfinished")
    with tempfile.TemporaryDirectory() as scratch_name, exclusively(unfinished):
        scratch = Path(scratch_name)
        source = obtain_backbone(backbone, scratch)
        engine = exact_engine(source.path, sha256=source.sha256)
        stages = Stages(
            unfinished,
            {
                "photos": [(photo.sha256, photo.label) for photo in photos],
                "folds": fold_of.tolist(),
                "backbone": source.sha256,
                "seed": seed,
                "computed_by": computed_by(engine.name),
            },
        )
        features = cache_features(
            photos,
            engine,
            seed=seed,
            stages=stages,
            needs_synthetic=_is_short_of_defects(photos, fold_of),
            progress=progress,
        )
        probes = read_probes(features, fold_of, progress=progress)
        everything = np.ones(len(photos), np.bool_)
        shown = choose(probes, features, everything)
        # For the figures even that choice is made without the readings of the fold it is made for.
        shown_without = [
            choose(probes, features, fold_of != fold) for fold in range(int(fold_of.max()) + 1)
        ]
        classifiers = {
            one: read_classifier(features, fold_of, shown=one, seed=seed, progress=progress)
            for one in dict.fromkeys((shown, *shown_without))
        }
        second = read_autoencoder(photos, fold_of, seed=seed, stages=stages, progress=progress)
        readings = Readings(photos, fold_of, classifiers[shown], second)
        parts = _fit(features, readings, shown, seed, stages, progress)
        decider = fit_decider(readings, everything, chosen_policy)
        model, reference = scratch / MODEL, scratch / REFERENCE
        write_parts(parts, model)
        write_reference(_reference(readings, engine, parts, decider.temperature), reference)
        fair = [replace(readings, classifier=classifiers[one]) for one in shown_without]
        judged = judge_out_of_fold(fair, policy=chosen_policy, data=data, masks=masks)
        measured = measure(judged, measured_on=out_of_fold(folds or FOLDS), seed=seed)
        manifest = Manifest(
            product=product,
            created_at=datetime.now(UTC),
            preprocess=preprocess.VERSION,
            seed=seed,
            backbone=artifact_of(source.path),
            model=artifact_of(model),
            reference=artifact_of(reference),
            temperature=decider.temperature,
            thresholds=decider.thresholds,
            policy=policy,
            limits=fit_limits(readings, everything, decider),
            quality=decider.quality,
            augmentation=Augmentation(
                turned=shown.copies > 1, gain=GAIN if shown.copies > 1 else (1.0, 1.0)
            ),
            defect_types=tuple(sorted({p.label for p in photos} - {GOOD})),
            data=_data_card(dataset),
            metrics=_metrics(measured, fair),
            provenance=_provenance(source, photos, photos_are, shown),
        )
        progress("quantising", 0, 1)
        good = [photo.photo.pixels for photo in photos if not photo.is_defective]
        manifest, agreement = quantise(good, manifest, parts, backbone=source.path, folder=scratch)
        if not agreement.is_good:
            warn(
                f"The backbone in int8 does not agree with fp32 (a probability differs by "
                f"{agreement.difference:.3f}, {agreement.flips} of the reference photos change "
                "sides), so the bundle comes without it."
            )
        progress("quantising", 1, 1)
        is_beside = (out.parent / source.path.name).is_file()
        write_bundle(
            out,
            manifest,
            files=[scratch / artifact.file for artifact in manifest.own_files],
            backbone=None if is_beside else source.path,
        )
        if report is not None:
            pictures = _picture_source(readings, judged)
            write_report(_document(manifest, measured, judged), report, pictures)
        stages.clear()
    return manifest


def _check_name(product: str) -> None:
    try:
        TypeAdapter(ProductName).validate_python(product)
    except ValidationError as error:
        raise InvalidInput(
            f"{product!r} cannot be a product's name: small letters, digits, - and _, at most 63",
            field="product",
        ) from error


def _is_short_of_defects(photos: Sequence[LabelledPhoto], fold_of: NDArray[np.int64]) -> bool:
    """Whether any fold leaves so few real defects that its head needs synthetic ones."""
    is_defective = np.array([photo.is_defective for photo in photos])
    return any(
        int((is_defective & (fold_of != fold)).sum()) < ENOUGH_DEFECTS
        for fold in range(int(fold_of.max()) + 1)
    )


def _fit(
    features: CachedFeatures,
    readings: Readings,
    shown: Shown,
    seed: int,
    stages: Stages,
    progress: Progress,
) -> Parts:
    """The models of the bundle, from all photos; the statistics of good parts out of fold."""
    is_good = ~features.is_defective
    good = np.stack([p.photo.pixels for p in readings.photos if not p.is_defective])
    rows = torch.arange(len(features.is_defective))
    good_features, head = fit_classifier(features, rows, shown=shown, seed=seed, progress=progress)
    return Parts(
        good_features=good_features,
        head=head,
        autoencoder=staged_autoencoder(
            "autoencoder", good, seed=seed, stages=stages, progress=progress
        ),
        good_residuals=residual_stats(readings.autoencoder.deviations[is_good]),
        good_evidence=fit_evidence(readings, np.ones(len(rows), np.bool_)),
        domain=fit_domain(features.fingerprints, features.is_defective),
    )


def _reference(readings: Readings, engine: Engine, parts: Parts, temperature: float) -> Reference:
    rows = choose_reference(readings.classifier.margins, readings.is_defective)
    pixels = np.stack([readings.photos[row].photo.pixels for row in rows])
    return make_reference(pixels, engine.features(pixels).cpu(), parts, temperature)


def _metrics(measured: Mapping[str, Any], fair: Sequence[Readings]) -> dict[str, float]:
    """The figures out of fold that the manifest keeps; those that cannot be computed are left out.

    Those against synthetic defects are there for products that have few or no real ones.
    """
    classifier, second, both = (
        measured[part] for part in ("classifier", "autoencoder", "combined")
    )
    localised = measured["localisation"] or {}
    calibrated = measured["calibration"] or {}
    found = {
        **{f"classifier_{name}": classifier[name] for name in _FIGURES},
        "classifier_ece": calibrated.get("ece"),
        **{f"autoencoder_{name}": second[name] for name in (*_FIGURES, "mse_auroc")},
        **{name: both[name] for name in ("escapes", "review_load_on_good", "undecidable")},
        "synthetic_auroc": _synthetic_auroc(fair),
        "anomaly_map_pixel_auroc": localised.get("anomaly_map", {}).get("pixel_auroc"),
        "anomaly_map_aupro": localised.get("anomaly_map", {}).get("aupro"),
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def _document(
    manifest: Manifest, measured: Mapping[str, Any], judged: Sequence[JudgedPhoto]
) -> dict[str, Any]:
    """The figures of the folds with what they are figures of, as `write_report` takes them."""
    return {
        "product": manifest.product,
        "thresholds_from": "Each fold was decided by thresholds chosen from the readings of the "
        f"other folds, the classifier's for {manifest.policy}, the autoencoder's from good photos "
        "alone.",
        "data_digest": manifest.data.digest,
        **measured,
        "photos": [row(photo) for photo in judged],
    }


def _picture_source(readings: Readings, judged: Sequence[JudgedPhoto]) -> PictureSource:
    """Photo and maps of any photo of the folds."""
    places = {photo.path: place for place, photo in enumerate(judged)}

    def pictures(path: str) -> Pictures:
        place = places[path]
        pixels, maps = readings.photos[place].photo.pixels, judged[place].maps
        if maps is None:
            raise LookupError(path)
        return draw_pictures(pixels, maps)

    return pictures


def _synthetic_auroc(fair: Sequence[Readings]) -> float:
    """The classifier's, on good photos against the same photos with synthetic defects."""
    margins: list[NDArray[np.float64]] = []
    synthetic: list[NDArray[np.float64]] = []
    for fold, readings in enumerate(fair):
        rows = (readings.fold_of == fold) & ~readings.is_defective
        margins.append(readings.classifier.margins[rows])
        synthetic.append(readings.classifier.synthetic_margins[rows])
    scores = np.concatenate([*margins, *synthetic])
    return float(roc_auc_score(np.arange(len(scores)) >= len(scores) // 2, scores))


def _data_card(dataset: Dataset) -> DataCard:
    digests = sorted(photo.sha256 for photo in dataset.trained_on)
    return DataCard(
        counts=dict(sorted(Counter(photo.label for photo in dataset.trained_on).items())),
        trained_on=tuple(digests),
        held_out=tuple(sorted({photo.sha256 for photo in dataset.held_out})),
        digest="sha256:" + hashlib.sha256("\n".join(digests).encode()).hexdigest(),
    )


def _provenance(
    source: BackboneFile, photos: Sequence[LabelledPhoto], photos_are: str, shown: Shown
) -> str:
    defects = sum(photo.is_defective for photo in photos)
    turned = "also turned, mirrored and relit" if shown.copies > 1 else "as they are"
    pooled = "averaged" if shown.exponent == 1.0 else "by the cells that are furthest off"
    seen = f"{len(photos) - defects} good and {defects} defective {photos_are}, {turned}, {pooled}"
    if defects == 0:
        seen += "; no photo of a defect: all defects are synthetic, drawn onto the good ones"
    elif defects < ENOUGH_DEFECTS:
        seen += "; so few defects that synthetic ones, drawn onto the good ones, fill up"
    return f"Backbone: {source.provenance} Head: {seen}. Autoencoder: good {photos_are} only."
