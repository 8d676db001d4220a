"""The manifest of a bundle: what a model version is, in numbers and digests.

A bundle is a folder: `manifest.json` and the safetensors files that it names by
SHA-256. The manifest holds no version number: that is given when the bundle is
published, and the same bundle published twice is one version. Its digest is the
identity of the model; every result names it.
"""

import hashlib
import json
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Sha256 = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
ProductName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


Text = Annotated[str, StringConstraints(max_length=4000, pattern=r"^[^\x00]*$")]
"""What a JSONB column can hold."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Artifact(_Frozen):
    """One file of the bundle, stored and fetched by its digest."""

    file: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]
    sha256: Sha256
    bytes: Annotated[int, Field(gt=0)]


class Thresholds(_Frozen):
    """Where scores turn into verdicts; all from photos that no figure is reported on."""

    defect_probability: Annotated[float, Field(ge=0, le=1)]
    near_threshold_low: Annotated[float, Field(ge=0, le=1)]
    """At or above this and below `near_threshold_high`, a person looks."""
    near_threshold_high: Annotated[float, Field(ge=0, le=1)]
    anomaly_score: float
    """Standard deviations; at or above it the autoencoder calls the part anomalous."""
    domain_distance: Annotated[float, Field(gt=0)]
    """Mahalanobis distance; above it the photo is not of this product."""


class Limits(_Frozen):
    """Fixed scales of the maps, so that a good part stays blue."""

    gradcam_high: Annotated[float, Field(gt=0)]
    """Grad-CAM beyond that of good parts that is drawn fully red; 0 is blue."""
    anomaly_low: float
    """Standard deviations drawn blue."""
    anomaly_high: float
    """Standard deviations drawn fully red."""

    @classmethod
    def of(cls, anomaly_score: float, *, gradcam_high: float) -> Self:
        """Up to half of that threshold a part is blue; twice as strange is as red as it gets."""
        return cls(
            gradcam_high=gradcam_high,
            anomaly_low=anomaly_score / 2,
            anomaly_high=anomaly_score * 2,
        )


class QualityLimits(_Frozen):
    """Learnt from the training photos: outside them a photo is too poor to judge."""

    min_sharpness: Annotated[float, Field(ge=0)]
    """Variance of the Laplacian of the 256 x 256 grey image, grey in [0, 255]."""
    min_brightness: Annotated[float, Field(ge=0)]
    """Mean grey value in [0, 255]; below: dark."""
    max_brightness: Annotated[float, Field(le=255)]
    """Mean grey value in [0, 255]; above: overexposed."""
    min_side: Annotated[int, Field(gt=0)]
    """Shorter side of the photo as it came, pixels; below: too small to show what training saw."""


class Augmentation(_Frozen):
    """What a photo of this product may vary in: what the head was trained to overlook."""

    turned: bool
    """By quarter turns, and mirrored."""
    gain: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
    """Brightness, as factors of the photo's own."""


class DataCard(_Frozen):
    """Which photos the model has seen, by content."""

    counts: dict[Text, int]
    """Photos per label that were trained on: `good` and the defect types."""
    trained_on: tuple[Sha256, ...]
    calibrated_on: tuple[Sha256, ...] = ()
    """Good photos of another camera that statistics and thresholds were taken from since."""
    held_out: tuple[Sha256, ...]
    """Photos of the same folder that neither training nor calibration has seen."""
    digest: Sha256
    """Over the sorted digests of `trained_on`."""

    @property
    def seen(self) -> frozenset[str]:
        """Every photo that a weight, a statistic or a threshold was taken from."""
        return frozenset((*self.trained_on, *self.calibrated_on))


SET_BY_A_PERSON = "set by a person"
BY_GOOD_PARTS = "one good part of this camera in a hundred"


class Manifest(_Frozen):
    format: Literal[1] = 1
    product: ProductName
    created_at: datetime
    preprocess: Text
    """Version of what training made of photos, see preprocess.py; serving must have the same."""
    seed: int
    backbone: Artifact
    model: Artifact
    """Head, autoencoder and statistics of this product."""
    reference: Artifact
    """Photos of the product with what the reference engine says of them."""
    quantised: Artifact | None = None
    """The backbone in int8 for OpenVINO; None where its verdicts did not agree."""
    temperature: Annotated[float, Field(gt=0)]
    """Divides the head's logits before the softmax."""
    thresholds: Thresholds
    policy: Text
    """What the classifier's threshold was chosen for: `best-f1`, `recall=0.99`, `cost=20:1`; or
    `SET_BY_A_PERSON`; of a bundle for another camera, where no defect was looked at,
    `BY_GOOD_PARTS`."""
    limits: Limits
    quality: QualityLimits
    augmentation: Augmentation
    defect_types: tuple[Text, ...]
    data: DataCard
    recalibrated_from: Sha256 | None = None
    """The bundle that this one is for another camera, or with other thresholds."""
    metrics: dict[Text, float]
    """Out-of-fold figures of training, for instance `classifier_auroc`."""
    provenance: Text
    """In words: where the backbone's weights and the photos come from."""

    @property
    def own_files(self) -> tuple[Artifact, ...]:
        """The files of this bundle alone: all but the backbone, which bundles share."""
        quantised = () if self.quantised is None else (self.quantised,)
        return (self.model, self.reference, *quantised)

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest as it is written to disk."""
        return "sha256:" + hashlib.sha256(self.to_json()).hexdigest()

    def to_json(self) -> bytes:
        """The one way to write it. Keys are sorted, because JSONB does not keep their order."""
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True).encode() + b"\n"
