"""Batches over HTTP: many photos in one request, one status for all of them."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response

from api.acceptance import Accepted, accept_batch
from api.auth import FIRST, Looker, Submitter
from api.batch_schemas import BatchItemOut, BatchLinks, BatchOut, BatchSubmittedOut
from api.deps import AppGateway, BaseUrl
from api.problems import responses
from api.routes.inspections import SUBMISSION_BODY, IdempotencyHeader
from api.submission import read_batch
from shared import batches
from shared.db import transaction
from shared.errors import DefectScopeError, NotFound
from shared.ids import is_id
from shared.inspection_document import ErrorOut, InspectionOut

router = APIRouter(prefix="/v1/batches", tags=["batches"], dependencies=[FIRST])


_ONE = SUBMISSION_BODY["requestBody"]["content"]["multipart/form-data"]["schema"]
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    **_ONE,
                    "properties": {
                        **_ONE["properties"],
                        "file": {"type": "array", "items": _ONE["properties"]["file"]},
                        "batch_id": {
                            "type": "string",
                            "description": "Add to this batch instead of beginning one.",
                        },
                    },
                }
            }
        },
    }
}


async def _batch_id(batch_id: Annotated[str, Path(description="`batch_…`")]) -> str:
    if not is_id(batch_id, "batch"):
        raise NotFound("There is no such batch.")
    return batch_id


BatchId = Annotated[str, Depends(_batch_id)]


@router.post(
    "",
    status_code=202,
    response_model=BatchSubmittedOut,
    summary="Submit many photos",
    responses=responses(400, 401, 403, 404, 413, 415, 422, 429, 503),
    openapi_extra=_BODY,
)
async def submit_batch(
    request: Request,
    response: Response,
    caller: Submitter,
    gateway: AppGateway,
    base_url: BaseUrl,
    idempotency_key: IdempotencyHeader = None,
) -> BatchSubmittedOut:
    """Each in a part `file`; the other fields hold for all of them. A larger lot comes in several
    requests with the same `batch_id`. Photos of a batch wait for those that are submitted alone,
    unless `priority` says otherwise.

    A file that is refused harms no other: `items` tells what became of each.
    """
    with gateway.door.room(caller) as room:
        submission = await read_batch(request, room)
        # The request itself was counted as one.
        gateway.rates.take(caller, len(submission.photos) - 1)
        accepted = await room.store(
            accept_batch,
            caller,
            submission,
            settings=gateway.settings,
            idempotency_key=idempotency_key,
        )
    gateway.bell.ring()
    items = [_item(name, outcome, base_url) for name, outcome in accepted.items]
    refused = sum(item.error is not None for item in items)
    links = _links(accepted.batch_id, base_url)
    response.headers["Location"] = links.self
    return BatchSubmittedOut(
        id=accepted.batch_id,
        accepted=len(items) - refused,
        refused=refused,
        items=items,
        urls=links,
    )


@router.get(
    "/{batch_id}",
    response_model=BatchOut,
    summary="How far a batch is",
    responses=responses(401, 403, 404, 429, 503),
)
def read_status(
    batch_id: BatchId, response: Response, caller: Looker, base_url: BaseUrl
) -> BatchOut:
    """`Retry-After` is there until all photos are finished."""
    with transaction() as session:
        batch = batches.get(session, organisation_id=caller.organisation_id, batch_id=batch_id)
        summary = batches.summarise(session, batch_id)
    if not summary.is_finished:
        response.headers["Retry-After"] = "2"
    return BatchOut(
        id=batch.id,
        created_at=batch.created_at,
        total=summary.total,
        by_status=summary.by_status,
        by_verdict=summary.by_verdict,
        by_disposition=summary.by_disposition,
        is_finished=summary.is_finished,
        urls=_links(batch_id, base_url),
    )


def _item(name: str, outcome: Accepted | DefectScopeError, base_url: str) -> BatchItemOut:
    if isinstance(outcome, DefectScopeError):
        error = ErrorOut(code=outcome.code, message=str(outcome))
        return BatchItemOut(name=name, inspection_id=None, inspection=None, error=error)
    row = outcome.inspection
    return BatchItemOut(
        name=name,
        inspection_id=outcome.inspection_id,
        inspection=InspectionOut.of(row, base_url) if row else None,
        error=None,
    )


def _links(batch_id: str, base_url: str) -> BatchLinks:
    return BatchLinks(
        self=f"{base_url}/v1/batches/{batch_id}",
        inspections=f"{base_url}/v1/inspections?batch={batch_id}",
    )
