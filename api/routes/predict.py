"""`POST /predict`: one photo in, the verdict in the reply."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from api.acceptance import accept_submission
from api.auth import FIRST, Submitter
from api.deps import AppGateway, BaseUrl
from api.problems import responses
from api.routes.inspections import SUBMISSION_BODY, IdempotencyHeader, read_when_finished
from api.schemas import PredictionOut
from api.submission import read_submission
from shared.accepting import new_inspection_id
from shared.errors import Unavailable
from shared.inspection_document import InspectionOut

router = APIRouter(tags=["inspections"], dependencies=[FIRST])

_MOST_URGENT = 9


@router.post(
    "/predict",
    response_model=PredictionOut,
    summary="Submit a photo and wait for its verdict",
    responses={
        202: {"model": PredictionOut, "description": "Accepted, but not judged in time: poll."},
        **responses(400, 401, 403, 404, 409, 413, 415, 422, 429, 503),
    },
    openapi_extra=SUBMISSION_BODY,
)
async def predict(
    request: Request,
    caller: Submitter,
    gateway: AppGateway,
    base_url: BaseUrl,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """The same path as any inspection, at the highest priority, because somebody waits.

    If it takes longer than the service waits, the answer is 202 and
    `inspection.urls.self` is the address to poll.
    """
    with gateway.door.room(caller) as room:
        submission = await read_submission(
            request, room, max_bytes=gateway.settings.max_upload_bytes
        )
        accepted = await room.store(
            accept_submission,
            caller,
            submission,
            inspection_id=new_inspection_id(),
            settings=gateway.settings,
            idempotency_key=idempotency_key,
            priority=_MOST_URGENT,
        )
        del submission  # the wait for the verdict need not hold the photo
    gateway.bell.ring()
    try:
        inspection = await read_when_finished(
            gateway.waiting,
            caller,
            accepted.inspection_id,
            base_url,
            gateway.settings.predict_wait_seconds,
        )
    except Unavailable:
        if accepted.inspection is None:
            raise  # with its Idempotency-Key it can be asked for again
        # It is accepted, whatever became of the database since: a 503 would bring it again.
        inspection = InspectionOut.of(accepted.inspection, base_url)
    return JSONResponse(
        PredictionOut.of(inspection).model_dump(mode="json"),
        200 if inspection.is_terminal else 202,
        {"Location": inspection.urls.self},
    )
