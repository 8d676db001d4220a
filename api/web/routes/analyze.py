"""The first page: a photo in, its verdict out."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from api.deps import AppGateway, BaseUrl
from api.web.rendering import page
from api.web.visiting import Anybody, PageRoute
from shared import products
from shared.db import transaction
from shared.errors import NotFound
from shared.sample_photos import SAMPLES

router = APIRouter(route_class=PageRoute, include_in_schema=False)

_SAMPLES = {path.name: path for path in sorted(SAMPLES.glob("*.jpg"))}


@router.get("/")
def analyze(request: Request, visitor: Anybody, gateway: AppGateway, _: BaseUrl) -> Response:
    with transaction() as session:
        rows = products.list_products(session, visitor.caller.organisation_id)
        names = [row.name for row in rows if row.active_version_id is not None]
    return page(
        request,
        "analyze.html",
        products=names,
        samples=list(_SAMPLES),
        most_bytes=gateway.settings.max_upload_bytes,
    )


@router.get("/samples/{name}")
def sample(name: str, _: Anybody) -> Response:
    if name not in _SAMPLES:
        raise NotFound("There is no such sample photo.")
    return FileResponse(
        _SAMPLES[name],
        media_type="image/jpeg",
        headers={"Cache-Control": "private, max-age=86400"},
    )
