"""What a fresh installation needs before it can serve: schema, bucket, admin key, bottle model.

`defectscope migrate` runs it; running it again changes nothing.
"""

from pathlib import Path

import structlog
from sqlalchemy import select

from migrations import migrate
from shared import keys, products
from shared.db import engine, transaction
from shared.manifest import Manifest
from shared.settings import Settings
from shared.storage import storage
from shared.storage.keys import artifact_key
from shared.tables import ApiKey, Product, Scope

log = structlog.stdlib.get_logger()

BUNDLED = Path(__file__).parent.parent / "worker" / "bundles"


def bootstrap(settings: Settings) -> None:
    """Bring database and storage to what this release needs.

    Raises InvalidInput for an admin key of another form, and Unavailable.
    """
    if settings.admin_key is not None:
        keys.parse(settings.admin_key.get_secret_value())
    migrate.upgrade(engine())
    storage().prepare()
    with transaction() as session:
        organisation = keys.first_organisation(session).id
    if settings.admin_key is not None:
        _ensure_admin_key(organisation, settings.admin_key.get_secret_value())
    _ensure_bottle(organisation)


def _ensure_admin_key(organisation: str, key: str) -> None:
    with transaction() as session:
        if session.scalar(select(ApiKey).where(ApiKey.id == keys.parse(key)[0])) is None:
            row, _ = keys.create_key(
                session,
                organisation_id=organisation,
                name="first admin",
                scopes=frozenset({Scope.ADMIN}),
                actor="bootstrap",
                key=key,
            )
            log.info("admin_key_made_valid", key=row.id)


def _ensure_bottle(organisation: str) -> None:
    """Publish and activate the bundled model, unless somebody has made the product already."""
    folder = BUNDLED / "bottle"
    manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
    with transaction() as session:
        if session.scalar(
            select(Product.id).where(
                Product.organisation_id == organisation, Product.name == manifest.product
            )
        ):
            return
    for artifact, path in (
        (manifest.backbone, BUNDLED / manifest.backbone.file),
        *((artifact, folder / artifact.file) for artifact in manifest.own_files),
    ):
        key = artifact_key(artifact.sha256)
        if not storage().exists(key):
            with path.open("rb") as file:
                storage().put(key, file, "application/octet-stream")
    with transaction() as session:
        version = products.publish(
            session,
            organisation_id=organisation,
            manifest=manifest,
            is_stored=lambda digest: storage().exists(artifact_key(digest)),
            actor="bootstrap",
        )
        products.activate(
            session,
            organisation_id=organisation,
            name=manifest.product,
            version=version.version,
            actor="bootstrap",
        )
    log.info("bundled_model_published", product=manifest.product, version=version.version)
