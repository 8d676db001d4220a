"""Direct uploads: the sender puts the photo into storage, and submits it by its id afterwards.

So the bytes need not pass the gateway. What may be put is bound beforehand: key, kind, size and
digest, once, and for a while. Originals that nobody submitted are removed by the sweeper.
"""

from collections.abc import Iterable
from datetime import timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from shared.errors import NotFound, UploadUsed
from shared.ids import is_id
from shared.tables import Upload

LIFE = timedelta(hours=1)


def announce(
    session: Session,
    *,
    upload_id: str,
    organisation_id: str,
    key: str,
    media_type: str,
    size: int,
    sha256: str,
) -> Upload:
    """Write down what is going to be put under `key`."""
    upload = Upload(
        id=upload_id,
        organisation_id=organisation_id,
        key=key,
        media_type=media_type,
        bytes=size,
        sha256=sha256,
        expires_at=func.now() + LIFE,
    )
    session.add(upload)
    session.flush()
    return upload


def get(session: Session, *, organisation_id: str, upload_id: str) -> Upload:
    """An upload that can still be submitted; the row is locked.

    Raises NotFound, also for what belongs to another organisation or has expired, and UploadUsed
    if it was submitted before.
    """
    if not is_id(upload_id, "up"):
        raise NotFound("There is no such upload; begin a new one.")
    upload = session.scalar(
        select(Upload)
        .where(
            Upload.id == upload_id,
            Upload.organisation_id == organisation_id,
            Upload.expires_at > func.now(),
        )
        .with_for_update()
    )
    if upload is None:
        raise NotFound(f"There is no upload {upload_id}, or it has expired; begin a new one.")
    if upload.inspection_id is not None:
        raise UploadUsed(f"Upload {upload_id} was submitted already, as {upload.inspection_id}.")
    return upload


def spend(session: Session, *, upload_id: str, inspection_id: str) -> None:
    """Bind the upload to the inspection that it became, in the same transaction."""
    session.execute(
        update(Upload).where(Upload.id == upload_id).values(inspection_id=inspection_id)
    )


def find_expired(session: Session, *, limit: int) -> dict[str, str]:
    """Up to `limit` uploads that were never submitted: the key of what may lie in storage, by id.

    An hour late, so that nobody is putting or submitting one at this moment.
    """
    rows = session.execute(
        select(Upload.id, Upload.key)
        .where(Upload.inspection_id.is_(None), Upload.expires_at < func.now() - LIFE)
        .limit(limit)
    )
    return {row.id: row.key for row in rows}


def forget(session: Session, upload_ids: Iterable[str]) -> None:
    """Delete the rows of these, whose objects are gone."""
    session.execute(
        delete(Upload)
        .where(Upload.id.in_(list(upload_ids)), Upload.inspection_id.is_(None))
        .execution_options(synchronize_session=False)
    )
