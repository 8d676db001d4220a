"""Products and their model versions: publish, activate, roll back, look up.

A version is immutable; publishing the same bundle again gives the version that
it already has. Files are stored by digest before the version row is written, so
a version that exists can be loaded.
"""

from collections.abc import Callable

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, undefer

from shared import audit
from shared.audit import Action
from shared.errors import Conflict, InvalidInput, NotFound
from shared.ids import new_id
from shared.manifest import Manifest
from shared.tables import Activation, ModelVersion, Product


def check_submittable(
    session: Session, *, organisation_id: str, name: str | None
) -> frozenset[str]:
    """Names of the organisation's products; `name`, or without it the only one there is, has an
    active version.

    Raises InvalidInput that names the known products, or says that none is active.
    """
    known = {
        row.name: row.active_version_id
        for row in session.execute(
            select(Product.name, Product.active_version_id).where(
                Product.organisation_id == organisation_id
            )
        )
    }
    if name is None and len(known) == 1:
        (name,) = known
    if name is None or name not in known:
        names = ", ".join(known) or "none yet; publish a bundle first"
        problem = "Say which product this is" if name is None else f"There is no product {name!r}"
        raise InvalidInput(
            f"{problem}. Known products: {names}.", code="unknown_product", field="product"
        )
    if known[name] is None:
        raise InvalidInput(
            f"Product {name!r} has no active model version; activate one first.",
            code="no_active_version",
            field="product",
        )
    return frozenset(known)


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


def count_versions(session: Session, product: Product) -> int:
    return session.scalar(select(func.count()).where(ModelVersion.product_id == product.id)) or 0


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
        for artifact in (manifest.backbone, *manifest.own_files)
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
    audit.note(
        session,
        organisation_id=organisation_id,
        actor=actor,
        action=Action.VERSION_PUBLISHED,
        subject=f"{product.name}@{version.version}",
        digest=digest,
    )
    return version


def activate(
    session: Session, *, organisation_id: str, name: str, version: int, actor: str
) -> Product:
    """Photos accepted from now on are judged by this version; if it was the shadow, that ends.

    Activating what is active already changes nothing. Raises NotFound.
    """
    product = lock_product(session, organisation_id=organisation_id, name=name)
    chosen = find_version(session, product, version)
    if product.active_version_id != chosen.id:
        present = _latest_activations(session, product, 1)
        _switch(
            session,
            product,
            chosen,
            previous_id=present[0].id if present else None,
            is_rollback=False,
            actor=actor,
        )
    return product


def roll_back(
    session: Session,
    *,
    organisation_id: str,
    name: str,
    actor: str,
    from_version: int | None = None,
) -> Product:
    """Activate the version that was active before the present one; again, the one before that.

    Activations are a stack: activating puts a version on top, rolling back takes it
    away. After 1, 2, 3 the first rollback gives 2 and the second 1, not 3 again; what
    was rolled back from is gone from the stack until somebody activates it anew.

    With `from_version`, only if that is the version to leave: sent again, because the
    answer was lost, it changes nothing. Raises NotFound, and Conflict where another
    version is active or nothing came before the present one.
    """
    product = lock_product(session, organisation_id=organisation_id, name=name)
    latest = _latest_activations(session, product, 2)
    if not latest:
        raise Conflict(
            f"Product {name!r} has no active version, so there is nothing to roll back.",
            code="nothing_to_roll_back_to",
        )
    present = latest[0]
    if from_version is not None and present.model_version.version != from_version:
        if present.is_rollback and latest[1].model_version.version == from_version:
            return product
        raise Conflict(
            f"{name}@{present.model_version.version} is active, not {name}@{from_version}; "
            "nothing was changed.",
            code="another_version_is_active",
        )
    if present.previous_id is None:
        raise Conflict(
            f"Nothing was active before {name}@{present.model_version.version}; "
            "activate the version that you want by its number.",
            code="nothing_to_roll_back_to",
        )
    before = session.get_one(Activation, present.previous_id)
    _switch(
        session,
        product,
        before.model_version,
        previous_id=before.previous_id,
        is_rollback=True,
        actor=actor,
    )
    return product


def list_activations(session: Session, product: Product) -> list[Activation]:
    """Newest first; the first is the one in force."""
    return _latest_activations(session, product, None)


def set_audit_share(
    session: Session, *, organisation_id: str, name: str, share: float, actor: str
) -> Product:
    """Have a person look at this share of the parts that would pass. Raises NotFound."""
    product = lock_product(session, organisation_id=organisation_id, name=name)
    if product.audit_share != share:
        audit.note(
            session,
            organisation_id=organisation_id,
            actor=actor,
            action=Action.AUDIT_SHARE_CHANGED,
            subject=name,
            before=product.audit_share,
            after=share,
        )
        product.audit_share = share
    return product


def active_versions(session: Session) -> list[ModelVersion]:
    """The active version of every product: what a worker keeps warm."""
    return list(
        session.scalars(
            select(ModelVersion).join(Product, Product.active_version_id == ModelVersion.id)
        )
    )


def shadow_versions(session: Session) -> list[ModelVersion]:
    """The shadow version of every product that has one."""
    return list(
        session.scalars(
            select(ModelVersion).join(Product, Product.shadow_version_id == ModelVersion.id)
        )
    )


def get_version(session: Session, version_id: str) -> ModelVersion:
    """The version with its manifest, to be used after the session too."""
    return session.scalars(
        select(ModelVersion)
        .where(ModelVersion.id == version_id)
        .options(undefer(ModelVersion.manifest))
    ).one()


def defect_types(session: Session, version_id: str) -> tuple[str, ...]:
    """The types of defects that this version was trained on."""
    return tuple(
        session.scalars(
            select(ModelVersion.manifest["defect_types"]).where(ModelVersion.id == version_id)
        ).one()
    )


def find_version(session: Session, product: Product, version: int) -> ModelVersion:
    """The version of that number. Raises NotFound."""
    found = session.scalar(
        select(ModelVersion).where(
            ModelVersion.product_id == product.id, ModelVersion.version == version
        )
    )
    if found is None:
        raise NotFound(f"Product {product.name!r} has no version {version}.")
    return found


def lock_product(session: Session, *, organisation_id: str, name: str) -> Product:
    """The product, changed by nobody else until the transaction ends. Raises NotFound."""
    product = session.scalar(
        select(Product)
        .where(Product.organisation_id == organisation_id, Product.name == name)
        # Without `key_share`, photos of this product could not be accepted meanwhile.
        .with_for_update(of=Product, key_share=True)
    )
    if product is None:
        raise NotFound(f"There is no product {name!r}.")
    return product


def _switch(
    session: Session,
    product: Product,
    version: ModelVersion,
    *,
    previous_id: int | None,
    is_rollback: bool,
    actor: str,
) -> None:
    audit.note(
        session,
        organisation_id=product.organisation_id,
        actor=actor,
        action=Action.VERSION_ROLLED_BACK if is_rollback else Action.VERSION_ACTIVATED,
        subject=f"{product.name}@{version.version}",
        before=product.active_version.version if product.active_version else None,
    )
    if product.shadow_version_id == version.id:
        product.shadow_version_id = product.shadow_since = None
        product.shadow_version = None
    product.active_version_id = version.id
    product.active_version = version
    session.add(
        Activation(
            product_id=product.id,
            model_version_id=version.id,
            previous_id=previous_id,
            is_rollback=is_rollback,
            actor=actor,
        )
    )
    session.flush()


def _latest_activations(session: Session, product: Product, limit: int | None) -> list[Activation]:
    return list(
        session.scalars(
            select(Activation)
            .where(Activation.product_id == product.id)
            .order_by(Activation.id.desc())
            .limit(limit)
        )
    )


def _find(session: Session, organisation_id: str, name: str) -> Product | None:
    return session.scalar(
        select(Product).where(Product.organisation_id == organisation_id, Product.name == name)
    )
