"""Inspections over HTTP: submit, poll, list, look at the pictures, cancel."""

import asyncio
import re
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from api.acceptance import accept_submission
from api.auth import FIRST, Looker, Reader, Submitter
from api.deps import AppGateway, BaseUrl
from api.problems import responses
from api.schemas import EventOut, HistoryOut, InspectionPage
from api.submission import Fields, Instant, Word, read_submission
from api.waiting import Waiting
from shared import inspection_queries, inspections
from shared.accepting import new_inspection_id
from shared.db import transaction
from shared.errors import NotFound, Unavailable
from shared.ids import is_id
from shared.inspection_document import InspectionOut
from shared.inspection_queries import Filters
from shared.keys import Caller
from shared.queue import tell_finished
from shared.storage import storage
from shared.tables import Inspection, Status, VerdictSource
from shared.verdicts import Disposition, Verdict

router = APIRouter(prefix="/v1/inspections", tags=["inspections"], dependencies=[FIRST])

_FORM = Fields.model_json_schema()["properties"]
SUBMISSION_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        **{
                            name: {"type": "string", "description": "A JSON object, as text."}
                            if name == "metadata"
                            else schema
                            for name, schema in _FORM.items()
                        },
                    },
                }
            },
            "image/jpeg": {"schema": {"type": "string", "format": "binary"}},
            "image/png": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["upload_id"],
                    "properties": {"upload_id": {"type": "string"}, **_FORM},
                }
            },
        },
    }
}


async def _inspection_id(inspection_id: Annotated[str, Path(description="`insp_…`")]) -> str:
    if not is_id(inspection_id, "insp"):
        raise NotFound("There is no such inspection.")
    return inspection_id


InspectionId = Annotated[str, Depends(_inspection_id)]
IdempotencyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Send the same key to send the same photo again without a second inspection.",
    ),
]
PreferHeader = Annotated[
    str | None,
    Header(description="`wait=N`: answer when it is finished, after N seconds at the latest."),
]


@router.post(
    "",
    status_code=202,
    response_model=InspectionOut,
    summary="Submit a photo",
    responses={
        200: {"model": InspectionOut, "description": "Finished within the wait."},
        **responses(400, 401, 403, 404, 409, 413, 415, 422, 429, 503),
    },
    openapi_extra=SUBMISSION_BODY,
)
async def submit(
    request: Request,
    caller: Submitter,
    gateway: AppGateway,
    base_url: BaseUrl,
    idempotency_key: IdempotencyHeader = None,
    prefer: PreferHeader = None,
) -> Response:
    """Accept a photo: as `multipart/form-data` with a part `file`, as a raw body, or as JSON with
    the `upload_id` of a direct upload.

    With a raw body the other fields go into the query. 202 means that the photo
    and its row are safe; poll `Location`, or wait with `Prefer: wait=N`.
    """
    seconds = min(_wait_seconds(prefer), gateway.settings.max_wait_seconds)
    inspection_id = new_inspection_id()
    # Expected from before it exists, so that no verdict can be missed.
    with gateway.waiting.expecting(inspection_id) as finished:
        with gateway.door.room(caller) as room:
            submission = await read_submission(
                request, room, max_bytes=gateway.settings.max_upload_bytes
            )
            accepted = await room.store(
                accept_submission,
                caller,
                submission,
                inspection_id=inspection_id,
                settings=gateway.settings,
                idempotency_key=idempotency_key,
            )
            del submission  # a caller who waits for the verdict need not hold the photo
        # Commit before ringing: a worker that wakes early would find no row.
        gateway.bell.ring()
        if accepted.inspection is not None and seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(finished.wait(), seconds)
    headers = {"Location": f"{base_url}/v1/inspections/{accepted.inspection_id}"}
    if accepted.is_replay:
        headers["Idempotency-Replayed"] = "true"
    try:
        if accepted.inspection is not None and seconds <= 0:
            inspection = InspectionOut.of(accepted.inspection, base_url)
        else:
            inspection = await read_when_finished(
                gateway.waiting,
                caller,
                accepted.inspection_id,
                base_url,
                seconds if accepted.is_replay else 0,
            )
    except Unavailable:
        # It is accepted, whatever became of the database since: a 503 would bring it again.
        body = {"id": accepted.inspection_id, "urls": {"self": headers["Location"]}}
        return JSONResponse(body, 202, headers | {"Retry-After": "2"})
    if not inspection.is_terminal:
        headers["Retry-After"] = "1"
    return Response(
        inspection.model_dump_json(),
        200 if inspection.is_terminal else 202,
        headers,
        media_type="application/json",
    )


@router.get(
    "/{inspection_id}",
    response_model=InspectionOut,
    summary="One inspection",
    responses=responses(401, 403, 404, 422, 429, 503),
)
async def read(
    inspection_id: InspectionId,
    response: Response,
    caller: Reader,
    gateway: AppGateway,
    base_url: BaseUrl,
    wait: Annotated[float, Query(ge=0, description="Seconds to wait for it to finish.")] = 0,
) -> InspectionOut:
    """`Retry-After` is there until the inspection is finished."""
    inspection = await read_when_finished(
        gateway.waiting,
        caller,
        inspection_id,
        base_url,
        min(wait, gateway.settings.max_wait_seconds),
    )
    if not inspection.is_terminal:
        response.headers["Retry-After"] = "1"
    return inspection


def _filters(
    serial: Word | None = None,
    lot: Word | None = None,
    line: Word | None = None,
    station: Word | None = None,
    product: Word | None = None,
    verdict: Verdict | None = None,
    disposition: Disposition | None = None,
    status: Status | None = None,
    verdict_source: VerdictSource | None = None,
    batch: Word | None = None,
    since: Annotated[Instant | None, Query(description="Accepted at or after.")] = None,
    until: Annotated[Instant | None, Query(description="Accepted before.")] = None,
) -> Filters:
    return Filters(
        serial,
        lot,
        line,
        station,
        product,
        verdict,
        disposition,
        status,
        verdict_source,
        batch,
        since,
        until,
    )


ListFilters = Annotated[Filters, Depends(_filters)]


@router.get(
    "",
    response_model=InspectionPage,
    summary="List inspections",
    responses=responses(401, 403, 422, 429, 503),
)
def list_inspections(
    caller: Looker,
    base_url: BaseUrl,
    filters: ListFilters,
    page_size: Annotated[int, Query(ge=1, le=500)] = 50,
    page_token: Annotated[str, Query(max_length=200)] = "",
) -> InspectionPage:
    """Newest first. All given filters must match."""
    with transaction() as session:
        rows, next_page_token = inspection_queries.page(
            session,
            organisation_id=caller.organisation_id,
            filters=filters,
            page_size=page_size,
            page_token=page_token,
        )
        return InspectionPage(
            inspections=[InspectionOut.of(row, base_url) for row in rows],
            next_page_token=next_page_token,
        )


_PICTURE: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        200: {"content": {"image/jpeg": {}, "image/png": {}}, "description": "The picture."},
        307: {"description": "To a short-lived storage link."},
        **responses(401, 403, 404, 429, 503),
    },
}


@router.get("/{inspection_id}/image", summary="The original photo", **_PICTURE)
def image(inspection_id: InspectionId, caller: Reader) -> Response:
    row = _read(caller, inspection_id)
    _kept(row)
    return _picture(row.image_key, row.media_type)


@router.get("/{inspection_id}/overlay", summary="Grad-CAM over the photo", **_PICTURE)
def overlay(inspection_id: InspectionId, caller: Reader) -> Response:
    """Where the classifier looked for a defect: red a lot, blue not at all."""
    row = _read(caller, inspection_id)
    return _picture(_made(row, row.overlay_key), "image/jpeg")


@router.get("/{inspection_id}/anomaly-map", summary="Anomaly map over the photo", **_PICTURE)
def anomaly_map(inspection_id: InspectionId, caller: Reader) -> Response:
    """Where the autoencoder found what good parts do not have."""
    row = _read(caller, inspection_id)
    return _picture(_made(row, row.anomaly_map_key), "image/jpeg")


@router.get(
    "/{inspection_id}/history",
    response_model=HistoryOut,
    summary="Who or what changed it, and when",
    responses=responses(401, 403, 404, 429, 503),
)
def history(inspection_id: InspectionId, caller: Reader) -> HistoryOut:
    with transaction() as session:
        inspection_queries.get(
            session, organisation_id=caller.organisation_id, inspection_id=inspection_id
        )
        events = inspection_queries.history(session, inspection_id)
    return HistoryOut(history=[EventOut.of(event) for event in events])


@router.post(
    "/{inspection_id}/cancel",
    response_model=InspectionOut,
    summary="Cancel an inspection that is not finished",
    responses=responses(401, 403, 404, 409, 429, 503),
)
def cancel(inspection_id: InspectionId, caller: Submitter, base_url: BaseUrl) -> InspectionOut:
    """Canceling twice is fine; 409 if it has a verdict or failed already."""
    with transaction() as session:
        inspections.cancel(
            session,
            organisation_id=caller.organisation_id,
            inspection_id=inspection_id,
            actor=caller.key_id,
        )
    tell_finished([inspection_id])
    return InspectionOut.of(_read(caller, inspection_id), base_url)


async def read_when_finished(
    waiting: Waiting, caller: Caller, inspection_id: str, base_url: str, seconds: float
) -> InspectionOut:
    """The inspection as soon as it is finished, or as it stands after `seconds`."""

    def load() -> InspectionOut:
        return InspectionOut.of(_read(caller, inspection_id), base_url)

    with waiting.expecting(inspection_id) as finished:
        inspection = await run_in_threadpool(load)
        if inspection.is_terminal or seconds <= 0:
            return inspection
        with suppress(TimeoutError):
            await asyncio.wait_for(finished.wait(), seconds)
    return await run_in_threadpool(load)


def _wait_seconds(prefer: str | None) -> float:
    """N of `wait=N`; preferences that we do not know are ignored, as RFC 7240 asks."""
    match = re.search(r"(?:^|[,;\s])wait=(\d{1,6})(?:$|[,;\s])", prefer or "")
    return float(match[1]) if match else 0.0


def _read(caller: Caller, inspection_id: str) -> Inspection:
    with transaction() as session:
        return inspection_queries.get(
            session, organisation_id=caller.organisation_id, inspection_id=inspection_id
        )


def _kept(row: Inspection) -> None:
    if row.pictures_deleted_at is not None:
        raise NotFound(
            "The pictures of this inspection are no longer kept, since "
            f"{row.pictures_deleted_at:%Y-%m-%d}; its history says why.",
            code="picture_deleted",
        )


def _made(row: Inspection, key: str | None) -> str:
    _kept(row)
    if key is None:
        raise NotFound(
            f"This inspection has no such picture: it is {row.status}.", code="no_picture"
        )
    return key


def _picture(key: str, media_type: str) -> Response:
    store = storage()
    file_name = key.rsplit("/", 1)[-1]
    if link := store.link(key, file_name=file_name):
        return RedirectResponse(link, 307, {"Cache-Control": "no-store"})
    return StreamingResponse(
        store.stream(key),
        media_type=media_type,
        headers={
            "Content-Disposition": f'inline; filename="{file_name}"',
            "X-Content-Type-Options": "nosniff",
            # Pictures never change under their address.
            "Cache-Control": "private, max-age=86400, immutable",
        },
    )
