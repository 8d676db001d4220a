"""The live list over HTTP: server-sent events."""

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sse_starlette.sse import EventSourceResponse
from starlette.concurrency import run_in_threadpool

from api.auth import FIRST, Reader, is_still_valid
from api.deps import AppGateway, BaseUrl
from api.problems import responses

router = APIRouter(prefix="/v1/stream", tags=["inspections"], dependencies=[FIRST])


@router.get(
    "",
    summary="Inspections as they finish",
    response_class=EventSourceResponse,
    responses={
        200: {
            "description": "Events `inspection`, each with the document that "
            "`GET /v1/inspections/{id}` gives, when one has finished or was decided; and `reload` "
            "after a gap. Nothing is sent twice or kept: read the list for what was before.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **responses(401, 403, 429, 503),
    },
)
async def stream(
    request: Request, caller: Reader, gateway: AppGateway, base_url: BaseUrl
) -> Response:
    async def may_listen() -> bool:
        return await run_in_threadpool(is_still_valid, request)

    gateway.stream.check_room(caller.key_id)
    return EventSourceResponse(
        gateway.stream.listen(caller.organisation_id, base_url, caller.key_id, may_listen),
        headers={"Cache-Control": "no-store"},
    )
