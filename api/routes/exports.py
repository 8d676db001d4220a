"""Lists to take away: every inspection that matches, as CSV or as JSON lines.

Streamed page by page, each in a short transaction of its own, so that a million rows need no more
memory than one page. What breaks off midway breaks the connection: the last chunk is missing, and
nobody takes half a list for the whole.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from api.auth import FIRST, Looker
from api.deps import BaseUrl
from api.problems import responses
from api.routes.inspections import ListFilters
from shared import inspection_queries
from shared.db import transaction
from shared.inspection_document import InspectionOut
from shared.inspection_queries import Filters
from shared.keys import Caller

router = APIRouter(prefix="/v1", tags=["inspections"], dependencies=[FIRST])

_PAGE = 500


def _file(media_type: str) -> dict[str, Any]:
    return {
        "response_class": StreamingResponse,
        "responses": {
            200: {
                "description": "All that match, newest first.",
                "content": {media_type: {"schema": {"type": "string"}}},
            },
            **responses(401, 403, 422, 429, 503),
        },
    }


@router.get("/inspections.csv", summary="All that match, as CSV", **_file("text/csv"))
def as_csv(caller: Looker, base_url: BaseUrl, filters: ListFilters) -> StreamingResponse:
    """One row an inspection, with a header. Text that a spreadsheet would run as a formula has an
    apostrophe in front.
    """
    header = _rows_as_csv([list(_COLUMNS)])
    return _download(caller, base_url, filters, _to_csv, "inspections.csv", "text/csv", header)


@router.get(
    "/inspections.ndjson",
    summary="All that match, a document a line",
    **_file("application/x-ndjson"),
)
def as_ndjson(caller: Looker, base_url: BaseUrl, filters: ListFilters) -> StreamingResponse:
    """The documents that `GET /v1/inspections/{id}` gives, one a line."""
    return _download(
        caller, base_url, filters, _to_ndjson, "inspections.ndjson", "application/x-ndjson"
    )


def _download(
    caller: Caller,
    base_url: str,
    filters: Filters,
    encode: Callable[[list[InspectionOut]], str],
    name: str,
    media_type: str,
    header: str = "",
) -> StreamingResponse:
    pages = _pages(caller.organisation_id, base_url, filters)
    # The first page before the answer begins: a database that is away is still a 503.
    first = next(pages)

    def pieces() -> Iterator[str]:
        yield header + encode(first)
        for page in pages:
            yield encode(page)

    return StreamingResponse(
        pieces(),
        media_type=media_type,
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _pages(organisation_id: str, base_url: str, filters: Filters) -> Iterator[list[InspectionOut]]:
    token = ""
    while True:
        with transaction() as session:
            rows, token = inspection_queries.page(
                session,
                organisation_id=organisation_id,
                filters=filters,
                page_size=_PAGE,
                page_token=token,
            )
            documents = [InspectionOut.of(row, base_url) for row in rows]
        yield documents
        if not token:
            return


def _to_ndjson(page: list[InspectionOut]) -> str:
    return "".join(f"{document.model_dump_json()}\n" for document in page)


def _to_csv(page: list[InspectionOut]) -> str:
    return _rows_as_csv(
        [[_cell(read(document)) for read in _COLUMNS.values()] for document in page]
    )


def _rows_as_csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """Text that begins like a formula is run by spreadsheets, whoever wrote it."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value
    return value


def _decision(name: str) -> Callable[[InspectionOut], Any]:
    def read(document: InspectionOut) -> Any:
        decision = document.review.decision if document.review else None
        return getattr(decision, name) if decision else None

    return read


def _moment(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


_COLUMNS: dict[str, Callable[[InspectionOut], Any]] = {
    "id": lambda one: one.id,
    "product": lambda one: one.product,
    "serial": lambda one: one.part.serial,
    "lot": lambda one: one.part.lot,
    "line": lambda one: one.part.line,
    "station": lambda one: one.part.station,
    "captured_at": lambda one: _moment(one.captured_at),
    "created_at": lambda one: _moment(one.created_at),
    "finished_at": lambda one: _moment(one.finished_at),
    "status": lambda one: one.status.value,
    "verdict": lambda one: one.verdict and one.verdict.value,
    "disposition": lambda one: one.disposition and one.disposition.value,
    "verdict_source": lambda one: one.verdict_source,
    "model_verdict": lambda one: one.model_verdict and one.model_verdict.value,
    "review_reasons": lambda one: " ".join(one.review_reasons),
    "reviewer": _decision("reviewer"),
    "decided_at": lambda one: _moment(_decision("at")(one)),
    "defect_type": _decision("defect_type"),
    "comment": _decision("comment"),
    "defect_probability": lambda one: one.classifier and one.classifier.defect_probability,
    "defect_threshold": lambda one: one.classifier and one.classifier.threshold,
    "anomaly_score": lambda one: one.autoencoder and one.autoencoder.anomaly_score,
    "anomaly_threshold": lambda one: one.autoencoder and one.autoencoder.threshold,
    "mse": lambda one: one.autoencoder and one.autoencoder.mse,
    "domain_distance": lambda one: one.domain and one.domain.distance,
    "quality": lambda one: " ".join(one.quality.reasons) if one.quality else None,
    "model_version": lambda one: one.model.version,
    "model_digest": lambda one: one.model.digest,
    "engine": lambda one: one.model.engine,
    "error": lambda one: one.error and one.error.code,
    "url": lambda one: one.urls.self,
}
