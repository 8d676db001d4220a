"""The audit log over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.auth import FIRST, Admin
from api.key_schemas import AuditEntryOut, AuditPage
from api.problems import responses
from shared import audit
from shared.db import transaction

router = APIRouter(prefix="/v1/audit", tags=["keys"], dependencies=[FIRST])


@router.get(
    "",
    response_model=AuditPage,
    summary="Who changed what",
    responses=responses(401, 403, 422, 429, 503),
)
def read(
    caller: Admin,
    page_size: Annotated[int, Query(ge=1, le=500)] = 50,
    page_token: Annotated[str, Query(max_length=200)] = "",
) -> AuditPage:
    """Newest first: keys, published and activated versions, shadows, how long pictures are kept."""
    with transaction() as session:
        rows, next_page_token = audit.page(
            session,
            organisation_id=caller.organisation_id,
            page_size=page_size,
            page_token=page_token,
        )
        return AuditPage(
            entries=[AuditEntryOut.of(row) for row in rows], next_page_token=next_page_token
        )
