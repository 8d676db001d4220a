"""Direct uploads over HTTP: announce a photo, put it straight into storage, submit its id."""

import hashlib
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from api.auth import FIRST, Submitter
from api.batch_schemas import UploadIn, UploadOut
from api.bodies import described, reading
from api.deps import AppGateway, BaseUrl
from api.problems import responses
from api.submission import read_body
from shared import uploads
from shared.db import transaction
from shared.errors import InvalidInput, TooLarge
from shared.ids import new_id
from shared.storage import storage
from shared.storage.keys import image_key
from shared.storage.protocol import UploadLink
from shared.tables import Upload

router = APIRouter(prefix="/v1/uploads", tags=["uploads"], dependencies=[FIRST])


@router.post(
    "",
    status_code=201,
    response_model=UploadOut,
    summary="Begin a direct upload",
    responses=responses(400, 401, 403, 413, 422, 429, 503),
    openapi_extra=described(UploadIn),
)
def begin(
    caller: Submitter,
    gateway: AppGateway,
    base_url: BaseUrl,
    announced: Annotated[UploadIn, Depends(reading(UploadIn))],
) -> UploadOut:
    """Answers where to PUT the file, with which headers. The store takes the announced bytes and no
    others; where it cannot give such a link, the service takes them itself.
    """
    if announced.bytes > gateway.settings.max_upload_bytes:
        raise TooLarge(f"A photo may have at most {gateway.settings.max_upload_bytes} bytes.")
    upload_id = new_id("up")
    key = image_key(caller.organisation_id, upload_id, announced.media_type, datetime.now(UTC))
    with transaction() as session:
        upload = uploads.announce(
            session,
            upload_id=upload_id,
            organisation_id=caller.organisation_id,
            key=key,
            media_type=announced.media_type,
            size=announced.bytes,
            sha256=announced.sha256,
        )
        expires_at = upload.expires_at
    link = storage().upload_link(
        key, media_type=announced.media_type, size=announced.bytes, sha256=announced.sha256
    )
    if link is None:
        link = UploadLink(
            f"{base_url}/v1/uploads/{upload_id}", {"Content-Type": announced.media_type}
        )
    return UploadOut(upload_id=upload_id, url=link.url, headers=link.headers, expires_at=expires_at)


@router.put(
    "/{upload_id}",
    status_code=204,
    summary="Put the file, where the store has no links of its own",
    responses=responses(401, 403, 404, 409, 413, 422, 429, 503),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                kind: {"schema": {"type": "string", "format": "binary"}}
                for kind in ("image/jpeg", "image/png")
            },
        }
    },
)
async def put(
    upload_id: Annotated[str, Path(description="`up_…`", max_length=64)],
    request: Request,
    caller: Submitter,
    gateway: AppGateway,
) -> Response:
    """With the same key as everything else; the bytes must be those that were announced."""
    upload = await run_in_threadpool(_find, caller.organisation_id, upload_id)
    with gateway.door.room(caller) as room:
        data = await read_body(request, room, max_bytes=gateway.settings.max_upload_bytes)
        await room.store(_store, upload, data)
    return Response(status_code=204)


def _find(organisation_id: str, upload_id: str) -> Upload:
    with transaction() as session:
        return uploads.get(session, organisation_id=organisation_id, upload_id=upload_id)


def _store(upload: Upload, data: bytes) -> None:
    if len(data) != upload.bytes or hashlib.sha256(data).hexdigest() != upload.sha256:
        raise InvalidInput(
            f"These are not the {upload.bytes} bytes that were announced; begin a new upload.",
            code="upload_differs",
        )
    storage().put(upload.key, data, upload.media_type)
