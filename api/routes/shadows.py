"""Shadow versions over HTTP: start, stop, see where they disagree with the active one."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from api.auth import FIRST, Admin, Looker
from api.problems import responses
from api.product_schemas import ProductOut
from api.routes.products import Name, VersionNumber
from api.shadow_schemas import DisagreementOut, DisagreementPage, ShadowOut
from shared import shadows
from shared.db import transaction

router = APIRouter(prefix="/v1/products/{name}", tags=["products"], dependencies=[FIRST])


@router.post(
    "/versions/{version}/shadow",
    response_model=ProductOut,
    summary="Judge photos by this version too, and tell nobody",
    responses=responses(401, 403, 404, 409, 422, 429, 503),
)
def start(name: Name, version: VersionNumber, caller: Admin) -> ProductOut:
    """Beside the active version, from the next photo that a worker takes; another shadow ends.

    409 for the active version, and for a product that has none.
    """
    with transaction() as session:
        return ProductOut.of(
            shadows.start(
                session,
                organisation_id=caller.organisation_id,
                name=name,
                version=version,
                actor=caller.key_id,
            )
        )


@router.delete(
    "/shadow",
    status_code=204,
    summary="Stop the shadow",
    responses=responses(401, 403, 404, 429, 503),
)
def stop(name: Name, caller: Admin) -> Response:
    """Stopping what does not run is fine."""
    with transaction() as session:
        shadows.stop(
            session, organisation_id=caller.organisation_id, name=name, actor=caller.key_id
        )
    return Response(status_code=204)


@router.get(
    "/shadow",
    response_model=ShadowOut,
    summary="How the shadow compares with the active version",
    responses=responses(401, 403, 404, 429, 503),
)
def read(name: Name, caller: Looker) -> ShadowOut:
    """404 with the code `no_shadow` where there is none."""
    with transaction() as session:
        return ShadowOut.of(
            shadows.summarise(session, organisation_id=caller.organisation_id, name=name)
        )


@router.get(
    "/shadow/disagreements",
    response_model=DisagreementPage,
    summary="Inspections of which the two disagree, newest first",
    responses=responses(401, 403, 404, 422, 429, 503),
)
def list_disagreements(
    name: Name,
    caller: Looker,
    page_size: Annotated[int, Query(ge=1, le=500)] = 50,
    page_token: Annotated[str, Query(max_length=200)] = "",
) -> DisagreementPage:
    with transaction() as session:
        rows, next_page_token = shadows.page_of_disagreements(
            session,
            organisation_id=caller.organisation_id,
            name=name,
            page_size=page_size,
            page_token=page_token,
        )
        return DisagreementPage(
            disagreements=[DisagreementOut.of(row) for row in rows],
            next_page_token=next_page_token,
        )
