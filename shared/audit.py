"""The audit log: who changed what, and which parts people decided. Only ever appended to.

An entry is written in the transaction of the change, so there is neither without the other; the
database refuses to change or remove one. What machines do to an inspection is in its history only.
"""

from enum import StrEnum
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.paging import read_number
from shared.tables import AuditEntry


class Action(StrEnum):
    KEY_CREATED = "key.created"
    KEY_REVOKED = "key.revoked"
    VERSION_PUBLISHED = "version.published"
    VERSION_ACTIVATED = "version.activated"
    VERSION_ROLLED_BACK = "version.rolled_back"
    SHADOW_STARTED = "shadow.started"
    SHADOW_STOPPED = "shadow.stopped"
    RETENTION_CHANGED = "retention.changed"
    AUDIT_SHARE_CHANGED = "audit_share.changed"
    THRESHOLDS_CHANGED = "thresholds.changed"
    REVIEW_DECIDED = "review.decided"
    WEBHOOK_CREATED = "webhook.created"
    WEBHOOK_CHANGED = "webhook.changed"
    WEBHOOK_ROTATED = "webhook.rotated"
    WEBHOOK_PAUSED = "webhook.paused"
    WEBHOOK_RESUMED = "webhook.resumed"
    WEBHOOK_DISABLED = "webhook.disabled"
    WEBHOOK_DELETED = "webhook.deleted"


def note(
    session: Session,
    *,
    organisation_id: str,
    actor: str,
    action: Action,
    subject: str,
    **detail: Any,
) -> None:
    """Write an entry; `subject` is what was changed, in a form that a person can look up."""
    session.add(
        AuditEntry(
            organisation_id=organisation_id,
            actor=actor,
            action=action,
            subject=subject,
            detail=detail,
        )
    )


def page(
    session: Session, *, organisation_id: str, page_size: int, page_token: str = ""
) -> tuple[list[AuditEntry], str]:
    """Newest first, and the token of the next page: empty on the last."""
    query = select(AuditEntry).where(AuditEntry.organisation_id == organisation_id)
    if page_token:
        query = query.where(AuditEntry.id < read_number(page_token, largest=2**63 - 1))
    rows = list(session.scalars(query.order_by(AuditEntry.id.desc()).limit(page_size + 1)))
    if len(rows) <= page_size:
        return rows, ""
    rows = rows[:page_size]
    return rows, str(rows[-1].id)
