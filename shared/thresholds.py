"""Other thresholds for a product: a model version of its own, with the same files.

A version is immutable and every inspection is pinned to one, so old results keep the thresholds
that they were judged by, and a rollback takes a change back.
"""

from datetime import UTC, datetime

from sqlalchemy.orm import Session

from shared import audit, products
from shared.audit import Action
from shared.errors import Conflict, InvalidInput, PreconditionFailed
from shared.manifest import SET_BY_A_PERSON, Limits, Manifest, Thresholds
from shared.tables import ModelVersion, Product

_KEPT_METRICS = ("auroc", "average_precision", "aupro", "ece")
"""Figures that hold whatever the threshold, by the end of their names."""


def change(
    session: Session,
    *,
    organisation_id: str,
    name: str,
    thresholds: Thresholds,
    if_match: str,
    actor: str,
) -> Product:
    """Publish and activate the active version with these thresholds.

    `if_match`: digest of the version that the change was made from. The same thresholds again
    change nothing. Raises NotFound, InvalidInput, Conflict where no version is active, and
    PreconditionFailed where another one is by now.
    """
    check(thresholds)
    product = products.lock_product(session, organisation_id=organisation_id, name=name)
    active = active_of(session, product)
    if active.digest != if_match:
        raise PreconditionFailed(
            f"{name}@{active.version} is active by now, with thresholds of its own; look at them "
            "and decide again."
        )
    before = Manifest.model_validate(active.manifest)
    if before.thresholds == thresholds:
        return product
    manifest = before.model_copy(
        update={
            "thresholds": thresholds,
            "limits": Limits.of(thresholds.anomaly_score, gradcam_high=before.limits.gradcam_high),
            "created_at": datetime.now(UTC),
            "policy": SET_BY_A_PERSON,
            "recalibrated_from": active.digest,
            "metrics": {
                name: value
                for name, value in before.metrics.items()
                if name.endswith(_KEPT_METRICS)
            },
        }
    )
    version = products.publish(
        session,
        organisation_id=organisation_id,
        manifest=manifest,
        is_stored=lambda _: True,  # they are those of the active version
        actor=actor,
    )
    audit.note(
        session,
        organisation_id=organisation_id,
        actor=actor,
        action=Action.THRESHOLDS_CHANGED,
        subject=f"{name}@{version.version}",
        before=before.thresholds.model_dump(),
        after=thresholds.model_dump(),
    )
    return products.activate(
        session, organisation_id=organisation_id, name=name, version=version.version, actor=actor
    )


def active_of(session: Session, product: Product) -> ModelVersion:
    """The active version with its manifest. Raises Conflict where there is none."""
    if product.active_version_id is None:
        raise Conflict(
            f"Product {product.name!r} has no active version, so there are no thresholds.",
            code="no_active_version",
        )
    return products.get_version(session, product.active_version_id)


def check(thresholds: Thresholds) -> None:
    """Raise InvalidInput unless the band to be looked at lies around the threshold."""
    low, high = thresholds.near_threshold_low, thresholds.near_threshold_high
    if not low <= thresholds.defect_probability <= high:
        raise InvalidInput(
            "near_threshold_low must not be above defect_probability, nor near_threshold_high "
            "below it.",
            field="near_threshold_low"
            if low > thresholds.defect_probability
            else "near_threshold_high",
        )
