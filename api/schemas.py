"""What the API answers about inspections, beside the document itself."""

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from shared.inspection_document import InspectionOut
from shared.tables import InspectionEvent


class InspectionPage(BaseModel):
    inspections: list[InspectionOut]
    next_page_token: str = Field(description="Empty on the last page.")


class EventOut(BaseModel):
    at: datetime
    actor: str = Field(description="A key, a worker, or the sweeper.")
    event: str
    detail: dict[str, Any]

    @classmethod
    def of(cls, row: InspectionEvent) -> Self:
        return cls(at=row.at, actor=row.actor, event=row.event, detail=row.detail)


class HistoryOut(BaseModel):
    history: list[EventOut]


class PredictionOut(BaseModel):
    """The answer of `/predict`: the walkthrough's words, and the whole inspection."""

    verdict: Literal["Good", "Defective", "Undecidable"] | None
    defect_probability: float | None
    threshold: float | None
    heatmap_url: str | None = Field(description="The Grad-CAM overlay.")
    anomaly_score: float | None = Field(description="Mean squared error of the autoencoder.")
    needs_manual_review: bool
    inspection: InspectionOut

    @classmethod
    def of(cls, inspection: InspectionOut) -> Self:
        verdict = inspection.verdict
        classifier, autoencoder = inspection.classifier, inspection.autoencoder
        return cls.model_validate(
            {
                "verdict": verdict.value.capitalize() if verdict else None,
                "defect_probability": classifier.defect_probability if classifier else None,
                "threshold": classifier.threshold if classifier else None,
                "heatmap_url": inspection.overlay_url,
                "anomaly_score": autoencoder.mse if autoencoder else None,
                "needs_manual_review": inspection.needs_review,
                "inspection": inspection,
            }
        )


class ReadinessOut(BaseModel):
    status: Literal["ready", "degraded", "not_ready"]
    checks: dict[str, str] = Field(description="`ok`, or what is wrong, for each part.")
    workers: int = Field(description="Worker processes that reported lately.")
    engines: list[str] = Field(description="What each of them judges with.")
    deliverer: Literal["ok", "away", "not_needed"] = Field(
        description="Whether webhooks are sent; `not_needed`: nobody wants any."
    )
