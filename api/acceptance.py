"""From a submission to a committed row: the one way in.

The order is the promise: original into storage, row and idempotency key in one
transaction, and only then a 202. What fails in between leaves no row.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Lock

import structlog
from cachetools import TTLCache

from api.submission import BatchSubmission, Submission
from shared import batches, idempotency, products, uploads
from shared.accepting import StoredImage, Submitted, accept, new_inspection_id
from shared.db import transaction
from shared.errors import (
    Conflict,
    DatabaseUnavailable,
    DefectScopeError,
    NotFound,
    StorageUnavailable,
    TooLarge,
    Unavailable,
    UploadUsed,
)
from shared.ids import new_id
from shared.image_headers import ImageHeader, read_header, sniff_header
from shared.keys import Caller
from shared.settings import Settings
from shared.storage import storage
from shared.storage.keys import image_key
from shared.tables import Inspection

log = structlog.stdlib.get_logger()

_AT_ONCE = 8
"""Photos of one batch."""
_START = 256 * 1024
"""Bytes of a direct upload that are read to see what it is: cameras put much before the picture."""


@dataclass(frozen=True)
class Accepted:
    inspection_id: str
    inspection: Inspection | None
    """The row that was written; None for a replay."""

    @property
    def is_replay(self) -> bool:
        """The same Idempotency-Key and payload came before: this is what it made then."""
        return self.inspection is None


class _AnotherWasFirst(Exception):
    pass


def accept_submission(
    caller: Caller,
    submission: Submission,
    *,
    inspection_id: str,
    settings: Settings,
    idempotency_key: str | None,
    priority: int | None = None,
    batch_id: str | None = None,
) -> Accepted:
    """Check, store and commit one photo: one object, one transaction. Blocks: runs in a thread.

    `inspection_id`: a new one, which it gets unless it is a replay.
    Raises the image errors, InvalidInput for an unknown product or a reused
    key, Unavailable where storage or the database is away; then there is no row.
    """
    fields, upload_id = submission.fields, submission.upload_id
    _check_product(caller.organisation_id, fields.product)
    sha256 = hashlib.sha256(submission.data).hexdigest()
    payload = (
        idempotency.payload_digest(
            upload_id or sha256, {**fields.model_dump(mode="json"), "batch_id": batch_id}
        )
        if idempotency_key is not None
        else ""
    )
    if upload_id is None:
        image = _store(caller, submission.data, sha256, inspection_id, settings)
    else:
        if idempotency_key and (earlier := _find_replay(caller, idempotency_key, payload)):
            return Accepted(earlier, None)  # an upload that is spent cannot be looked at again
        try:
            image = _look_at(caller, upload_id, settings)
        except UploadUsed as error:
            return _same_upload(caller, idempotency_key, payload, error)
    try:
        with transaction() as session:
            if upload_id is not None:
                uploads.get(session, organisation_id=caller.organisation_id, upload_id=upload_id)
            photo = Submitted(
                inspection_id,
                image,
                fields.part,
                fields.priority if priority is None else priority,
                batch_id,
            )
            inspection = accept(
                session,
                organisation_id=caller.organisation_id,
                product=fields.product,
                photo=photo,
                actor=caller.key_id,
            )
            if upload_id is not None:
                uploads.spend(session, upload_id=upload_id, inspection_id=inspection_id)
            if idempotency_key is not None and not idempotency.remember(
                session,
                api_key_id=caller.key_id,
                key=idempotency_key,
                payload_sha256=payload,
                inspection_id=inspection_id,
            ):
                raise _AnotherWasFirst
    except _AnotherWasFirst:
        _discard(image.key, upload_id)
        earlier = _find_replay(caller, str(idempotency_key), payload)
        if earlier is None:
            raise RuntimeError("an idempotency key vanished within its life") from None
        return Accepted(earlier, None)
    except UploadUsed as error:
        return _same_upload(caller, idempotency_key, payload, error)
    except DatabaseUnavailable:
        # The commit may have gone through before the connection broke: a row
        # without its photo would be worse than an orphan.
        raise
    except BaseException:
        _discard(image.key, upload_id)
        raise
    return Accepted(inspection_id, inspection)


@dataclass(frozen=True)
class AcceptedBatch:
    batch_id: str
    items: list[tuple[str, Accepted | DefectScopeError]]
    """Name of each file, and what became of it: a row, or the reason why there is none."""


def accept_batch(
    caller: Caller,
    submission: BatchSubmission,
    *,
    settings: Settings,
    idempotency_key: str | None,
) -> AcceptedBatch:
    """Accept each photo for itself, some at a time; one that is refused harms no other. Blocks.

    With an idempotency key the same form sent again makes the same batch, and accepts only what
    was not accepted then. Raises NotFound for an unknown batch to add to, and what concerns all
    photos: Unavailable if storage or the database was away for each of them.
    """
    _check_product(caller.organisation_id, submission.fields.product)
    batch_id = _begin_batch(caller, submission.batch_id, idempotency_key)
    away: list[StorageUnavailable] = []

    def accept_one(place: int) -> Accepted | DefectScopeError:
        if away:
            # A store that hangs would hold up each of the others as long.
            return away[0]
        try:
            return accept_submission(
                caller,
                Submission(submission.fields, submission.photos[place][1]),
                inspection_id=new_inspection_id(),
                settings=settings,
                idempotency_key=None if idempotency_key is None else f"{idempotency_key}#{place}",
                batch_id=batch_id,
            )
        except StorageUnavailable as error:
            away.append(error)
            return error
        except DefectScopeError as error:
            return error

    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        outcomes = list(pool.map(accept_one, range(len(submission.photos))))
    unavailable = [outcome for outcome in outcomes if isinstance(outcome, Unavailable)]
    if len(unavailable) == len(outcomes):
        raise unavailable[0]
    names = [name for name, _ in submission.photos]
    return AcceptedBatch(batch_id, list(zip(names, outcomes, strict=True)))


def _begin_batch(caller: Caller, batch_id: str | None, idempotency_key: str | None) -> str:
    with transaction() as session:
        if batch_id is not None:
            batches.get(session, organisation_id=caller.organisation_id, batch_id=batch_id)
            return batch_id
        if idempotency_key is None:
            batch_id = new_id("batch")
        else:
            # The same key, the same batch, without a table for it.
            words = f"{caller.key_id}/{idempotency_key}".encode()
            batch_id = f"batch_{hashlib.sha256(words).hexdigest()[:26]}"
        batches.create(session, batch_id=batch_id, organisation_id=caller.organisation_id)
    return batch_id


def _find_replay(caller: Caller, key: str, payload: str) -> str | None:
    with transaction() as session:
        return idempotency.find(session, api_key_id=caller.key_id, key=key, payload_sha256=payload)


def _same_upload(caller: Caller, key: str | None, payload: str, error: UploadUsed) -> Accepted:
    """It was spent a moment ago, perhaps by the same request sent twice at once."""
    if key is not None and (earlier := _find_replay(caller, key, payload)):
        return Accepted(earlier, None)
    raise error


_known: TTLCache[str, frozenset[str]] = TTLCache(maxsize=1024, ttl=60)
_knowing = Lock()


def _check_product(organisation_id: str, name: str | None) -> None:
    """Refuse an unknown product before the upload to storage: it must not cost an object.

    A product that was known a minute ago is let through; the transaction that accepts the photo
    looks again.
    """
    with _knowing:
        known = _known.get(organisation_id, frozenset())
    if name in known or (name is None and len(known) == 1):
        return
    with transaction() as session:
        known = products.check_submittable(session, organisation_id=organisation_id, name=name)
    with _knowing:
        _known[organisation_id] = known


def _store(
    caller: Caller, data: bytes, sha256: str, inspection_id: str, settings: Settings
) -> StoredImage:
    """Check a photo and put it into storage."""
    if len(data) > settings.max_upload_bytes:
        raise TooLarge(f"A photo may have at most {settings.max_upload_bytes} bytes.")
    header = read_header(data, min_side=settings.min_side_px, max_pixels=settings.max_pixels)
    key = image_key(caller.organisation_id, inspection_id, header.media_type, datetime.now(UTC))
    storage().put(key, data, header.media_type)
    return _described(key, sha256, len(data), header)


def _look_at(caller: Caller, upload_id: str, settings: Settings) -> StoredImage:
    """What was put into storage under this upload; the worker checks the rest of it.

    Raises Conflict where nothing was put yet, or something else than what was announced.
    """
    with transaction() as session:
        upload = uploads.get(session, organisation_id=caller.organisation_id, upload_id=upload_id)
    try:
        start, size = storage().start_of(upload.key, _START)
    except NotFound as error:
        raise Conflict(
            f"Nothing was put into storage for upload {upload_id} yet.", code="upload_missing"
        ) from error
    header = sniff_header(start, min_side=settings.min_side_px, max_pixels=settings.max_pixels)
    if size != upload.bytes or header.media_type != upload.media_type:
        raise Conflict(
            f"Upload {upload_id} was announced as {upload.bytes} bytes of {upload.media_type}; "
            f"there are {size} bytes of {header.media_type}.",
            code="upload_differs",
        )
    return _described(upload.key, upload.sha256, size, header)


def _described(key: str, sha256: str, size: int, header: ImageHeader) -> StoredImage:
    return StoredImage(key, sha256, size, header.media_type, header.width, header.height)


def _discard(key: str, upload_id: str | None) -> None:
    """No row was written, so nothing points to the object. What stays behind is an orphan.

    An upload can still be submitted, or is taken away by the sweeper.
    """
    if upload_id is not None:
        return
    try:
        storage().delete(key)
    except DefectScopeError as error:
        log.warning("orphan_left", key=key, error=str(error))
