"""Products and their model versions over HTTP: publish and activate.

A bundle arrives in two steps: its files by digest, each stored once whatever
the number of bundles that share it; then its manifest, which makes the version.
"""

import hashlib
import tempfile
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from api.auth import Admin, Reader
from api.problems import responses
from api.schemas import ProductOut, ProductsOut, VersionOut, VersionsOut
from shared import products
from shared.db import transaction
from shared.errors import InvalidInput, NotFound, TooLarge
from shared.manifest import Manifest
from shared.storage import artifact_key, storage

router = APIRouter(prefix="/v1", tags=["products"])

_MAX_ARTIFACT_BYTES = 512 * 1024 * 1024

Digest = Annotated[str, Path(pattern=r"^sha256:[0-9a-f]{64}$")]


@router.head(
    "/artifacts/{digest}",
    status_code=204,
    summary="Is this file of a bundle stored already?",
    responses=responses(401, 403, 404, 503),
)
def has_artifact(digest: Digest, _: Admin) -> Response:
    if not storage().exists(artifact_key(digest)):
        raise NotFound(f"There is no artifact {digest}.")
    return Response(status_code=204)


@router.put(
    "/artifacts/{digest}",
    status_code=204,
    summary="Store a file of a bundle under its digest",
    responses=responses(401, 403, 413, 422, 503),
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


@router.get("/products", response_model=ProductsOut, responses=responses(401, 403, 503))
def list_products(caller: Reader) -> ProductsOut:
    with transaction() as session:
        rows = products.list_products(session, caller.organisation_id)
        return ProductsOut(products=[ProductOut.of(row) for row in rows])


@router.get(
    "/products/{name}/versions",
    response_model=VersionsOut,
    summary="Versions of a product, newest first",
    responses=responses(401, 403, 404, 503),
)
def list_versions(name: str, caller: Reader) -> VersionsOut:
    with transaction() as session:
        product = products.get_product(session, organisation_id=caller.organisation_id, name=name)
        rows = products.list_versions(session, product)
        return VersionsOut(versions=[VersionOut.of(row, product) for row in rows])


@router.post(
    "/products/{name}/versions",
    status_code=201,
    response_model=VersionOut,
    summary="Publish a bundle by its manifest",
    responses=responses(401, 403, 422, 503),
)
def publish(name: str, manifest: Manifest, caller: Admin) -> VersionOut:
    """The files must be stored already. The same bundle again gives the same version."""
    if manifest.product != name:
        raise InvalidInput(
            f"The manifest is for product {manifest.product!r}, not {name!r}.", field="product"
        )
    with transaction() as session:
        version = products.publish(
            session,
            organisation_id=caller.organisation_id,
            manifest=manifest,
            is_stored=lambda digest: storage().exists(artifact_key(digest)),
            actor=caller.key_id,
        )
        product = products.get_product(session, organisation_id=caller.organisation_id, name=name)
        return VersionOut.of(version, product)


@router.post(
    "/products/{name}/versions/{version}/activate",
    response_model=ProductOut,
    summary="Judge photos from now on by this version",
    responses=responses(401, 403, 404, 503),
)
def activate(name: str, version: int, caller: Admin) -> ProductOut:
    """Photos that were accepted before keep the version that was active then."""
    with transaction() as session:
        return ProductOut.of(
            products.activate(
                session, organisation_id=caller.organisation_id, name=name, version=version
            )
        )
