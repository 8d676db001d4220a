"""Products and their model versions over HTTP: publish, activate, roll back.

A bundle arrives in two steps: its files by digest, each stored once whatever
the number of bundles that share it; then its manifest, which makes the version.
"""

import hashlib
import re
import tempfile
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from api.auth import FIRST, Admin, Looker, Reader
from api.bodies import described, read_json, reading
from api.problems import responses
from api.product_schemas import (
    ActivationOut,
    ActivationsOut,
    ProductOut,
    ProductsOut,
    RetentionIn,
    VersionCardOut,
    VersionOut,
    VersionPage,
)
from shared import products, retention, version_cards
from shared.db import transaction
from shared.errors import InvalidInput, NotFound, TooLarge
from shared.keys import Caller
from shared.manifest import Manifest
from shared.storage import storage
from shared.storage.keys import artifact_key

router = APIRouter(prefix="/v1", tags=["products"], dependencies=[FIRST])

_MAX_ARTIFACT_BYTES = 512 * 1024 * 1024

_MAX_MANIFEST_BYTES = 16 * 1024 * 1024


async def _name(name: Annotated[str, Path(description="Name of the product.")]) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", name):
        raise NotFound("There is no such product.")
    return name


Name = Annotated[str, Depends(_name)]
VersionNumber = Annotated[int, Path(ge=1, le=2**31 - 1)]
Digest = Annotated[str, Path(pattern=r"^sha256:[0-9a-f]{64}$")]


@router.head(
    "/artifacts/{digest}",
    status_code=204,
    summary="Is this file of a bundle stored already?",
    responses=responses(401, 403, 404, 429, 503),
)
def has_artifact(digest: Digest, _: Admin) -> Response:
    if not storage().exists(artifact_key(digest)):
        raise NotFound(f"There is no artifact {digest}.")
    return Response(status_code=204)


@router.put(
    "/artifacts/{digest}",
    status_code=204,
    summary="Store a file of a bundle under its digest",
    responses=responses(401, 403, 413, 422, 429, 503),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            },
        }
    },
)
async def put_artifact(digest: Digest, request: Request, _: Admin) -> Response:
    seen = 0
    actual = hashlib.sha256()
    with tempfile.TemporaryFile() as file:
        async for piece in request.stream():
            seen += len(piece)
            if seen > _MAX_ARTIFACT_BYTES:
                raise TooLarge(f"A file of a bundle may have at most {_MAX_ARTIFACT_BYTES} bytes.")
            actual.update(piece)
            await run_in_threadpool(file.write, piece)
        if f"sha256:{actual.hexdigest()}" != digest:
            raise InvalidInput(
                f"The body has the digest sha256:{actual.hexdigest()}, not {digest}; "
                "it was damaged on its way, or is another file.",
                code="digest_mismatch",
                field="digest",
            )
        file.seek(0)
        await run_in_threadpool(
            storage().put, artifact_key(digest), file, "application/octet-stream"
        )
    return Response(status_code=204)


@router.get("/products", response_model=ProductsOut, responses=responses(401, 403, 429, 503))
def list_products(caller: Reader) -> ProductsOut:
    with transaction() as session:
        rows = products.list_products(session, caller.organisation_id)
        return ProductsOut(products=[ProductOut.of(row) for row in rows])


@router.get(
    "/products/{name}/versions",
    response_model=VersionPage,
    summary="Versions of a product, newest first",
    responses=responses(401, 403, 404, 422, 429, 503),
)
def list_versions(
    name: Name,
    caller: Looker,
    page_size: Annotated[int, Query(ge=1, le=100)] = 20,
    page_token: Annotated[str, Query(max_length=200)] = "",
) -> VersionPage:
    with transaction() as session:
        product = products.get_product(session, organisation_id=caller.organisation_id, name=name)
        cards, next_page_token = version_cards.page(
            session, product, page_size=page_size, page_token=page_token
        )
        return VersionPage(
            versions=[VersionCardOut.of(card, product.name) for card in cards],
            next_page_token=next_page_token,
        )


@router.get(
    "/products/{name}/versions/{version}",
    response_model=VersionOut,
    summary="A version with its whole manifest",
    responses=responses(401, 403, 404, 429, 503),
)
def get_version(name: Name, version: VersionNumber, caller: Reader) -> VersionOut:
    with transaction() as session:
        product = products.get_product(session, organisation_id=caller.organisation_id, name=name)
        return VersionOut.of(products.find_version(session, product, version), product)


@router.post(
    "/products/{name}/versions",
    status_code=201,
    response_model=VersionOut,
    summary="Publish a bundle by its manifest",
    responses=responses(400, 401, 403, 404, 413, 422, 429, 503),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Manifest"}}},
        }
    },
)
async def publish(name: Name, request: Request, caller: Admin) -> VersionOut:
    """The files must be stored already. The same bundle again gives the same version."""
    manifest = await read_json(request, Manifest, max_bytes=_MAX_MANIFEST_BYTES)
    if manifest.product != name:
        raise InvalidInput(
            f"The manifest is for product {manifest.product!r}, not {name!r}.", field="product"
        )
    return await run_in_threadpool(_publish, manifest, caller)


def _publish(manifest: Manifest, caller: Caller) -> VersionOut:
    with transaction() as session:
        version = products.publish(
            session,
            organisation_id=caller.organisation_id,
            manifest=manifest,
            is_stored=lambda digest: storage().exists(artifact_key(digest)),
            actor=caller.key_id,
        )
        product = products.get_product(
            session, organisation_id=caller.organisation_id, name=manifest.product
        )
        return VersionOut.of(version, product)


@router.post(
    "/products/{name}/versions/{version}/activate",
    response_model=ProductOut,
    summary="Judge photos from now on by this version",
    responses=responses(401, 403, 404, 429, 503),
)
def activate(name: Name, version: VersionNumber, caller: Admin) -> ProductOut:
    """Photos that were accepted before keep the version that was active then.

    If the version was the shadow, the shadow ends.
    """
    with transaction() as session:
        return ProductOut.of(
            products.activate(
                session,
                organisation_id=caller.organisation_id,
                name=name,
                version=version,
                actor=caller.key_id,
            )
        )


@router.post(
    "/products/{name}/rollback",
    response_model=ProductOut,
    summary="Activate the version that was active before",
    responses=responses(401, 403, 404, 409, 422, 429, 503),
)
def roll_back(
    name: Name,
    caller: Admin,
    from_version: Annotated[
        int | None,
        Query(ge=1, le=2**31 - 1, description="Only if this one is active: safe to send again."),
    ] = None,
) -> ProductOut:
    """Once more goes to the one before that, not back again; 409 if nothing came before."""
    with transaction() as session:
        return ProductOut.of(
            products.roll_back(
                session,
                organisation_id=caller.organisation_id,
                name=name,
                actor=caller.key_id,
                from_version=from_version,
            )
        )


@router.get(
    "/products/{name}/activations",
    response_model=ActivationsOut,
    summary="Which version was active when, newest first",
    responses=responses(401, 403, 404, 429, 503),
)
def list_activations(name: Name, caller: Reader) -> ActivationsOut:
    with transaction() as session:
        product = products.get_product(session, organisation_id=caller.organisation_id, name=name)
        rows = products.list_activations(session, product)
        return ActivationsOut(activations=[ActivationOut.of(row) for row in rows])


@router.put(
    "/products/{name}/retention",
    response_model=ProductOut,
    summary="How long pictures are kept",
    responses=responses(400, 401, 403, 404, 413, 422, 429, 503),
    openapi_extra=described(RetentionIn),
)
def set_retention(
    name: Name, caller: Admin, asked: Annotated[RetentionIn, Depends(reading(RetentionIn))]
) -> ProductOut:
    """Original and maps are deleted so many days after the verdict, also of photos that are there
    already; the verdict stays. Parts that wait for a person keep their pictures.
    """
    with transaction() as session:
        return ProductOut.of(
            retention.set_retention(
                session,
                organisation_id=caller.organisation_id,
                name=name,
                days=asked.days,
                actor=caller.key_id,
            )
        )
