"""What the API answers about shadow versions. No inspection's own document mentions them."""

from datetime import datetime
from typing import Self

from pydantic import BaseModel, Field

from shared.shadows import ShadowSummary
from shared.tables import Inspection, ShadowResult
from shared.verdicts import Disposition, Verdict


class VerdictPairOut(BaseModel):
    active: Verdict
    shadow: Verdict
    inspections: int


class DispositionPairOut(BaseModel):
    active: Disposition
    shadow: Disposition
    inspections: int


class ShadowOut(BaseModel):
    """How the shadow compares with the active version: photos that these two have judged."""

    product: str
    shadow_version: int
    active_version: int
    since: datetime = Field(description="When the shadow was started; counts begin here.")
    inspections: int = Field(description="Judged by both.")
    agreements: int = Field(description="The same verdict and the same disposition.")
    disagreements: int
    verdicts: list[VerdictPairOut] = Field(description="Inspections by pair of verdicts.")
    dispositions: list[DispositionPairOut] = Field(
        description="Inspections by pair of dispositions."
    )
    failures: int = Field(description="Inspections that the shadow could not judge.")
    failure_codes: dict[str, int]

    @classmethod
    def of(cls, summary: ShadowSummary) -> Self:
        return cls(
            product=summary.product.name,
            shadow_version=summary.shadow.version,
            active_version=summary.active.version,
            since=summary.since,
            inspections=summary.agreements + summary.disagreements,
            agreements=summary.agreements,
            disagreements=summary.disagreements,
            verdicts=[
                VerdictPairOut(active=active, shadow=shadow, inspections=count)
                for (active, shadow), count in sorted(summary.verdicts.items())
            ],
            dispositions=[
                DispositionPairOut(active=active, shadow=shadow, inspections=count)
                for (active, shadow), count in sorted(summary.dispositions.items())
            ],
            failures=sum(summary.failures.values()),
            failure_codes=dict(summary.failures),
        )


class OpinionOut(BaseModel):
    """What one version said of a photo."""

    verdict: Verdict
    disposition: Disposition
    defect_probability: float
    mse: float
    anomaly_score: float
    domain_distance: float


class DisagreementOut(BaseModel):
    inspection_id: str
    judged_at: datetime
    active: OpinionOut
    shadow: OpinionOut

    @classmethod
    def of(cls, row: ShadowResult) -> Self:
        return cls.model_validate(
            {
                "inspection_id": row.inspection_id,
                "judged_at": row.created_at,
                "active": {
                    "verdict": row.active_verdict,
                    "disposition": row.active_disposition,
                    **_numbers(row.inspection),
                },
                "shadow": {
                    "verdict": row.verdict,
                    "disposition": row.disposition,
                    **_numbers(row),
                },
            }
        )


def _numbers(row: Inspection | ShadowResult) -> dict[str, float | None]:
    return {
        "defect_probability": row.defect_probability,
        "mse": row.mse,
        "anomaly_score": row.anomaly_score,
        "domain_distance": row.domain_distance,
    }


class DisagreementPage(BaseModel):
    disagreements: list[DisagreementOut]
    next_page_token: str = Field(description="Empty on the last page.")
