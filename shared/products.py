"""Products and their model versions: publish, activate, look up.

A version is immutable; publishing the same bundle again gives the version that
it already has. Files are stored by digest before the version row is written, so
a version that exists can be loaded.
"""

from collections.abc import Callable

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, undefer

from shared.errors import InvalidInput, NotFound
from shared.ids import new_id
from shared.manifest import Manifest
from shared.tables import ModelVersion, Product


def product_for_submission(session: Session, *, organisation_id: str, name: str | None) -> Product:
    """The product under that name, with an active version; without a name, the only one there is.

    Raises InvalidInput that names the known products, or says that none is active.
    """
    known = {product.name: product for product in list_products(session, organisation_id)}
    if name is None and len(known) == 1:
        (name,) = known
    product = known.get(name or "")
    if product is None:
        names = ", ".join(known) or "none yet; publish a bundle first"
        problem = "Say which product this is" if name is None else f"There is no product {name!r}"
        raise InvalidInput(
            f"{problem}. Known products: {names}.", code="unknown_product", field="product"
        )
    if product.active_version_id is None:
        raise InvalidInput(
            f"Product {name!r} has no active model version; activate one first.",
            code="no_active_version",
            field="product",
        )
    return product


def list_products(session: Session, organisation_id: str) -> list[Product]:
    return list(
        session.scalars(
            select(Product).where(Product.organisation_id == organisation_id).order_by(Product.name)
        )
    )


def get_product(session: Session, *, organisation_id: str, name: str) -> Product:
    """Raises NotFound."""
    product = _find(session, organisation_id, name)
    if product is None:
        raise NotFound(f"There is no product {name!r}.")
    return product


def list_versions(session: Session, product: Product) -> list[ModelVersion]:
    """Newest first."""
    return list(
        session.scalars(
            select(ModelVersion)
            .where(ModelVersion.product_id == product.id)
            .order_by(ModelVersion.version.desc())
        )
    )


def publish(
    session: Session,
    *,
    organisation_id: str,
    manifest: Manifest,
    is_stored: Callable[[str], bool],
    actor: str,
) -> ModelVersion:
    """Give the bundle the next version number of its product; make the product if it is new.

    `is_stored` tells whether a file is in storage, by digest. Raises InvalidInput
    naming the files that are not.
    """
    missing = [
        artifact.file
        for artifact in (manifest.backbone, manifest.model)
        if not is_stored(artifact.sha256)
    ]
    if missing:
        raise InvalidInput(
            f"Upload these files of the bundle first: {', '.join(missing)}.",
            code="artifact_missing",
        )
    session.execute(
        insert(Product)
        .values(id=new_id("prod"), organisation_id=organisation_id, name=manifest.product)
        .on_conflict_do_nothing()
    )
    # The lock gives two publications of one product different numbers.
    product = session.scalars(
        select(Product)
        .where(Product.organisation_id == organisation_id, Product.name == manifest.product)
        .with_for_update(of=Product)
    ).one()
    digest = manifest.digest
    existing = session.scalar(
        select(ModelVersion).where(
            ModelVersion.product_id == product.id, ModelVersion.digest == digest
        )
    )
    if existing is not None:
        return existing
    latest = session.scalar(
        select(func.max(ModelVersion.version)).where(ModelVersion.product_id == product.id)
    )
    version = ModelVersion(
        id=new_id("mdl"),
        product_id=product.id,
        version=(latest or 0) + 1,
        digest=digest,
        thresholds=manifest.thresholds.model_dump(mode="json"),
        manifest=manifest.model_dump(mode="json"),
        published_by=actor,
    )
    session.add(version)
    session.flush()
    return version


def activate(session: Session, *, organisation_id: str, name: str, version: int) -> Product:
    """Photos accepted from now on are judged by this version. Raises NotFound."""
    product = get_product(session, organisation_id=organisation_id, name=name)
    chosen = session.scalar(
        select(ModelVersion).where(
            ModelVersion.product_id == product.id, ModelVersion.version == version
        )
    )
    if chosen is None:
        raise NotFound(f"Product {name!r} has no version {version}.")
    product.active_version_id = chosen.id
    product.active_version = chosen
    return product


def active_versions(session: Session) -> list[ModelVersion]:
    """The active version of every product: what a worker keeps warm."""
    return list(
        session.scalars(
            select(ModelVersion).join(Product, Product.active_version_id == ModelVersion.id)
        )
    )


def get_version(session: Session, version_id: str) -> ModelVersion:
    """The version with its manifest, to be used after the session too."""
    return session.scalars(
        select(ModelVersion)
        .where(ModelVersion.id == version_id)
        .options(undefer(ModelVersion.manifest))
    ).one()


def _find(session: Session, organisation_id: str, name: str) -> Product | None:
    return session.scalar(
        select(Product).where(Product.organisation_id == organisation_id, Product.name == name)
    )
