"""The document of an inspection, made from its row: the same in answers, webhooks and `predict`.

Links are the service's own and stay valid; storage links behind them do not.
"""

from datetime import UTC, datetime
from typing import Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field

from shared.manifest import Thresholds
from shared.regions import Polygon
from shared.tables import (
    TERMINAL,
    Inspection,
    Review,
    ReviewDecision,
    ReviewStatus,
    Status,
)
from shared.verdicts import (
    Disposition,
    QualityReason,
    ReviewReason,
    Scores,
    Verdict,
    decide,
)

_EXAMPLE_ID = "insp_01kaqz2m8ebkz4v5j2t1rd9x0c"
_EXAMPLE_URL = f"http://127.0.0.1:8000/v1/inspections/{_EXAMPLE_ID}"

INSPECTION_EXAMPLE: dict[str, Any] = {
    "id": _EXAMPLE_ID,
    "status": "succeeded",
    "product": "bottle",
    "verdict": "defective",
    "disposition": "hold",
    "verdict_source": "model",
    "model_verdict": "defective",
    "model_disposition": "hold",
    "needs_review": True,
    "review_reasons": ["model_disagreement"],
    "part": {"serial": "SN1", "lot": "L7", "line": "L2", "station": "cam1"},
    "captured_at": "2026-11-23T08:30:00Z",
    "metadata": {"shift": "early"},
    "priority": 5,
    "batch_id": None,
    "classifier": {"defect_probability": 0.41, "threshold": 0.336, "defective": True},
    "autoencoder": {
        "mse": 0.0021,
        "anomaly_score": 3.1,
        "threshold": 4.2,
        "anomalous": False,
        "regions": [],
    },
    "domain": {"distance": 31.0, "limit": 55.0, "in_domain": True},
    "quality": {"ok": True, "reasons": []},
    "model": {
        "product": "bottle",
        "version": 3,
        "digest": "sha256:" + "0f" * 32,
        "engine": "openvino-bf16",
    },
    "image": {
        "sha256": "sha256:" + "a5" * 32,
        "bytes": 210_331,
        "media_type": "image/jpeg",
        "width": 900,
        "height": 900,
        "url": f"{_EXAMPLE_URL}/image",
    },
    "overlay_url": f"{_EXAMPLE_URL}/overlay",
    "anomaly_map_url": f"{_EXAMPLE_URL}/anomaly-map",
    "review": {"id": "rev_01kaqz2mjw3q8f7v6s5d4n3b2a", "status": "open", "decision": None},
    "error": None,
    "timings_ms": {
        "queued": 3,
        "fetch": 4,
        "decode": 9,
        "infer": 124,
        "record": 5,
        "total": 145,
    },
    "created_at": "2026-11-23T08:30:01.120Z",
    "started_at": "2026-11-23T08:30:01.123Z",
    "finished_at": "2026-11-23T08:30:01.265Z",
    "urls": {
        "self": _EXAMPLE_URL,
        "history": f"{_EXAMPLE_URL}/history",
        "cancel": f"{_EXAMPLE_URL}/cancel",
    },
}


class PartOut(BaseModel):
    serial: str | None
    lot: str | None
    line: str | None
    station: str | None


class ClassifierOut(BaseModel):
    defect_probability: float = Field(description="Calibrated, in [0, 1].")
    threshold: float
    defective: bool


class AutoencoderOut(BaseModel):
    mse: float = Field(description="Mean squared error; reported, not decided on.")
    anomaly_score: float = Field(description="Standard deviations above good parts.")
    threshold: float
    anomalous: bool
    regions: list[Polygon] = Field(
        description="Where it is above the threshold, the strangest region first: polygons of "
        "[x, y] in shares of the photo's width and height."
    )


class DomainOut(BaseModel):
    distance: float = Field(description="Mahalanobis distance to the training photos.")
    limit: float
    in_domain: bool


class QualityOut(BaseModel):
    ok: bool
    reasons: list[str]


class ModelOut(BaseModel):
    product: str
    version: int
    digest: str
    engine: str | None = Field(description="What computed it; null until it has run.")


class ImageOut(BaseModel):
    sha256: str
    bytes: int
    media_type: str
    width: int
    height: int
    url: str | None = Field(description="Null once it was deleted, as are those of the maps.")


class DecisionOut(BaseModel):
    """What a person decided. A later decision supersedes an earlier one."""

    id: str
    reviewer: str = Field(description="The key of whoever decided.")
    verdict: Verdict
    defect_type: str | None
    region: list[Polygon] | None = Field(
        description="Where the defect is, as in `autoencoder.regions`."
    )
    comment: str
    at: datetime

    @classmethod
    def of(cls, row: ReviewDecision) -> Self:
        return cls(
            id=row.id,
            reviewer=row.reviewer,
            verdict=row.verdict,
            defect_type=row.defect_type,
            region=row.region,
            comment=row.comment,
            at=row.at,
        )


class InspectionReviewOut(BaseModel):
    id: str
    status: ReviewStatus
    decision: DecisionOut | None = Field(description="The one in force.")

    @classmethod
    def of(cls, row: Review) -> Self:
        return cls(
            id=row.id,
            status=row.status(datetime.now(UTC)),
            decision=DecisionOut.of(row.decision) if row.decision else None,
        )


class ErrorOut(BaseModel):
    code: str
    message: str


class TimingsOut(BaseModel):
    """Milliseconds. A photo shares the time of its batch."""

    queued: float = Field(description="Accepted until claimed.")
    fetch: float = Field(description="Original out of storage.")
    decode: float = Field(description="Decoded and resized.")
    infer: float = Field(description="The models and the maps.")
    record: float = Field(description="Maps into storage.")
    total: float = Field(description="Accepted until the verdict was written.")


class UrlsOut(BaseModel):
    self: str
    history: str
    cancel: str


class InspectionOut(BaseModel):
    """One photo and its outcome."""

    model_config = ConfigDict(json_schema_extra={"example": INSPECTION_EXAMPLE})

    id: str
    status: Status
    product: str
    verdict: Verdict | None = Field(description="The person's, once one has decided.")
    disposition: Disposition | None = Field(description="What to do with the part.")
    verdict_source: Literal["model", "person"] | None
    model_verdict: Verdict | None = Field(description="The model's, whatever a person decided.")
    model_disposition: Disposition | None = Field(
        description="What the model's verdict would mean; `random_audit` holds parts that pass."
    )
    needs_review: bool = Field(description="A person must look, and none has decided yet.")
    review_reasons: list[ReviewReason]
    part: PartOut
    captured_at: datetime | None
    metadata: dict[str, Any]
    priority: int
    batch_id: str | None
    classifier: ClassifierOut | None
    autoencoder: AutoencoderOut | None
    domain: DomainOut | None
    quality: QualityOut | None
    model: ModelOut
    image: ImageOut
    overlay_url: str | None
    anomaly_map_url: str | None
    review: InspectionReviewOut | None
    error: ErrorOut | None
    timings_ms: TimingsOut | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    urls: UrlsOut

    @classmethod
    def of(cls, row: Inspection, base_url: str) -> Self:
        url = f"{base_url}/v1/inspections/{row.id}"
        is_kept = row.pictures_deleted_at is None
        return cls(
            id=row.id,
            status=row.status,
            product=row.product.name,
            verdict=row.verdict,
            disposition=row.disposition,
            verdict_source=row.verdict_source.value if row.verdict_source else None,
            needs_review=bool(row.review_reasons)
            and (row.review is None or row.review.decided_at is None),
            review_reasons=[ReviewReason(reason) for reason in row.review_reasons],
            part=PartOut(serial=row.serial, lot=row.lot, line=row.line, station=row.station),
            captured_at=row.captured_at,
            metadata=row.annotations,
            priority=row.priority,
            batch_id=row.batch_id,
            **(
                scores_out(
                    _scores(row),
                    Thresholds.model_validate(row.model_version.thresholds),
                    row.anomaly_regions or [],
                )
                if row.status is Status.SUCCEEDED
                else _NO_SCORES
            ),
            model=ModelOut(
                product=row.product.name,
                version=row.model_version.version,
                digest=row.model_version.digest,
                engine=row.engine,
            ),
            image=ImageOut(
                sha256=f"sha256:{row.image_sha256}",
                bytes=row.image_bytes,
                media_type=row.media_type,
                width=row.width,
                height=row.height,
                url=f"{url}/image" if is_kept else None,
            ),
            overlay_url=f"{url}/overlay" if row.overlay_key and is_kept else None,
            anomaly_map_url=f"{url}/anomaly-map" if row.anomaly_map_key and is_kept else None,
            review=InspectionReviewOut.of(row.review) if row.review else None,
            error=ErrorOut(code=row.error_code, message=row.error_message or "")
            if row.error_code
            else None,
            timings_ms=TimingsOut(**row.timings_ms) if row.timings_ms else None,
            created_at=row.created_at,
            started_at=row.started_at,
            finished_at=row.finished_at,
            urls=UrlsOut(self=url, history=f"{url}/history", cancel=f"{url}/cancel"),
        )

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL


_NO_SCORES: dict[str, Any] = dict.fromkeys(
    (
        *("classifier", "autoencoder", "domain", "quality"),
        *("model_verdict", "model_disposition"),
    )
)


def scores_out(
    scores: Scores, thresholds: Thresholds, regions: list[list[list[float]]]
) -> dict[str, Any]:
    """What the models said, each number beside the threshold that it is held against."""
    outcome = decide(scores, thresholds)
    return {
        "model_verdict": outcome.verdict,
        "model_disposition": outcome.disposition,
        "classifier": ClassifierOut(
            defect_probability=scores.defect_probability,
            threshold=thresholds.defect_probability,
            defective=outcome.is_defective,
        ),
        "autoencoder": AutoencoderOut(
            mse=scores.mse,
            anomaly_score=scores.anomaly_score,
            threshold=thresholds.anomaly_score,
            anomalous=outcome.is_anomalous,
            regions=regions,
        ),
        "domain": DomainOut(
            distance=scores.domain_distance,
            limit=thresholds.domain_distance,
            in_domain=outcome.is_in_domain,
        ),
        "quality": QualityOut(ok=not scores.quality_reasons, reasons=list(scores.quality_reasons)),
    }


def _scores(row: Inspection) -> Scores:
    """A row that succeeded has all of them: `record` writes them together."""
    return Scores(
        defect_probability=cast(float, row.defect_probability),
        mse=cast(float, row.mse),
        anomaly_score=cast(float, row.anomaly_score),
        domain_distance=cast(float, row.domain_distance),
        quality_reasons=tuple(QualityReason(reason) for reason in row.quality_reasons),
    )
