"""A submission, from the bytes of a request to a committed row.

The order is the promise: original into storage, row and idempotency key in one
transaction, and only then a 202. What fails in between leaves no row.
"""

import hashlib
import json
import math
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Lock
from typing import Annotated, Any

import structlog
from cachetools import TTLCache
from fastapi import Request
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from api.problems import field_errors
from shared import idempotency, inspections, products
from shared.db import transaction
from shared.errors import (
    DatabaseUnavailable,
    DefectScopeError,
    InvalidInput,
    Malformed,
    NotAnImage,
    TooLarge,
)
from shared.image_headers import ImageHeader, read_header
from shared.inspections import Part, StoredImage
from shared.keys import Caller
from shared.settings import Settings
from shared.storage import image_key, storage
from shared.tables import Inspection

log = structlog.stdlib.get_logger()

_FORM_OVERHEAD = 128 * 1024
"""Bytes that a form may have beside the photo."""
_MAX_DRAIN = 32 * 1024 * 1024
"""A client that is over the limit is read on up to here, so that it sees the answer."""
_MAX_METADATA = 16 * 1024
_MAX_METADATA_DEPTH = 32


def _storable(text: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError("control characters are not allowed")
    return _encodable(text)


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("lone surrogates are not allowed") from error
    return text


def _instant(moment: datetime) -> datetime:
    """The moment in UTC. Years that a clock cannot mean are refused: not every date that ISO 8601
    can write can be read back from the database.
    """
    if not 1970 <= moment.year <= 2200:
        raise ValueError("the year must be between 1970 and 2200")
    return moment.astimezone(UTC)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _metadata(value: Any) -> Any:
    """The JSON object in a form field, in a form that PostgreSQL can keep."""
    if not isinstance(value, str):
        return value
    if len(value) > _MAX_METADATA:
        raise ValueError(f"at most {_MAX_METADATA} characters")
    try:
        parsed = json.loads(value, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(parsed, dict):
        raise ValueError("must be a JSON object")
    _check_storable(parsed, depth=0)
    return parsed


def _check_storable(node: Any, *, depth: int) -> None:
    """Raise ValueError for JSON that PostgreSQL refuses or that nobody can read."""
    if depth > _MAX_METADATA_DEPTH:
        raise ValueError(f"nested deeper than {_MAX_METADATA_DEPTH} levels")
    match node:
        case dict():
            for key, value in node.items():
                _check_storable(key, depth=depth)
                _check_storable(value, depth=depth + 1)
        case list():
            for value in node:
                _check_storable(value, depth=depth + 1)
        case str() if "\0" in node:
            raise ValueError("NUL characters are not allowed")
        case str():
            _encodable(node)
        case float() if not math.isfinite(node):
            raise ValueError("a number is too large")


Word = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_storable)]


class Fields(BaseModel):
    """What may come beside the photo."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    product: Word | None = Field(
        None, description="Name of the product; may be left out where there is only one."
    )
    serial: Word | None = Field(None, description="Serial number of the part.")
    lot: Word | None = None
    line: Word | None = None
    station: Word | None = None
    captured_at: Annotated[AwareDatetime, AfterValidator(_instant)] | None = Field(
        None, description="ISO 8601 with a time zone."
    )
    metadata: Annotated[dict[str, Any], BeforeValidator(_metadata)] = Field(
        default_factory=dict, description="A JSON object of your own, up to 16 kB."
    )
    priority: int = Field(5, ge=0, le=9, description="9 is judged first.")


@dataclass(frozen=True)
class Submission:
    data: bytes
    fields: Fields


async def read_submission(request: Request, *, max_bytes: int) -> Submission:
    """The photo and its fields, from a form or from a raw `image/*` body with query fields.

    Bytes are counted as they arrive. Raises TooLarge, Malformed, NotAnImage,
    InvalidInput.
    """
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        return await _read_form(request, max_bytes)
    if media_type.startswith("image/") or media_type == "application/octet-stream":
        data = b"".join([piece async for piece in _counted(request, max_bytes, max_bytes)])
        return Submission(data, _fields(dict(request.query_params)))
    raise NotAnImage(
        "Send the photo as multipart/form-data with a part `file`, or as the body with "
        "Content-Type image/jpeg or image/png.",
        code="unsupported_content_type",
    )


async def _read_form(request: Request, max_bytes: int) -> Submission:
    class InMemory(MultiPartParser):
        # The whole body is bounded, so nothing needs to touch the disk.
        spool_max_size = max_bytes + _FORM_OVERHEAD

    parser = InMemory(
        request.headers,
        _counted(request, max_bytes + _FORM_OVERHEAD, max_bytes),
        max_files=1,
        max_fields=len(Fields.model_fields),
        max_part_size=_MAX_METADATA + 1024,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Malformed(f"The form cannot be read: {error.message}") from error
    except (KeyError, ValueError) as error:
        raise Malformed("The form cannot be read: its boundary or headers are broken.") from error
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise InvalidInput(
                "The form has no photo: send it as a file in the part `file`.",
                code="file_missing",
                field="file",
            )
        data = await file.read()
        if len(data) > max_bytes:
            raise _too_large(max_bytes)
        texts: dict[str, Any] = {}
        for name, value in form.multi_items():
            if isinstance(value, str):
                if name in texts:
                    raise InvalidInput(f"The field {name!r} came twice.", field=name)
                texts[name] = value
    finally:
        await form.close()
    return Submission(data, _fields(texts))


def _fields(texts: dict[str, Any]) -> Fields:
    # An empty form field means that nothing was filled in.
    given = {name: value for name, value in texts.items() if value != ""}
    try:
        return Fields.model_validate(given)
    except ValidationError as error:
        entries = field_errors(error.errors())
        raise InvalidInput(
            "; ".join(f"{entry['field']}: {entry['message']}" for entry in entries),
            field=entries[0]["field"],
        ) from error


async def _counted(request: Request, limit: int, told: int) -> AsyncGenerator[bytes, None]:
    """The body's pieces; raises TooLarge once there are more than `limit` bytes in all.

    `told` is the limit that the message names. A little more than the limit is
    read and thrown away, because a client that is cut off while it sends seldom
    reads the answer.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit + _MAX_DRAIN:
        raise _too_large(told)
    seen = 0
    async for piece in request.stream():
        seen += len(piece)
        if seen > limit + _MAX_DRAIN:
            break
        if seen <= limit:
            yield piece
    if seen > limit:
        raise _too_large(told)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"A photo may have at most {limit} bytes ({limit // 2**20} MB); send a smaller one."
    )


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
) -> Accepted:
    """Check, store and commit one photo: one object, one transaction. Blocks: runs in a thread.

    `inspection_id`: a new one, which it gets unless it is a replay.
    Raises the image errors, InvalidInput for an unknown product or a reused
    key, Unavailable where storage or the database is away; then there is no row.
    """
    header = read_header(
        submission.data, min_side=settings.min_side_px, max_pixels=settings.max_pixels
    )
    fields = submission.fields
    _check_product(caller.organisation_id, fields.product)
    sha256 = hashlib.sha256(submission.data).hexdigest()
    payload = idempotency.payload_digest(sha256, fields.model_dump(mode="json"))
    image = _store(caller, submission.data, header, sha256, inspection_id)
    try:
        with transaction() as session:
            inspection = inspections.accept(
                session,
                inspection_id=inspection_id,
                product=products.product_for_submission(
                    session, organisation_id=caller.organisation_id, name=fields.product
                ),
                image=image,
                part=Part(
                    serial=fields.serial,
                    lot=fields.lot,
                    line=fields.line,
                    station=fields.station,
                    captured_at=fields.captured_at,
                    annotations=fields.metadata,
                ),
                priority=fields.priority if priority is None else priority,
                actor=caller.key_id,
            )
            if idempotency_key is not None and not idempotency.remember(
                session,
                api_key_id=caller.key_id,
                key=idempotency_key,
                payload_sha256=payload,
                inspection_id=inspection_id,
            ):
                raise _AnotherWasFirst
    except _AnotherWasFirst:
        _discard(image.key)
        with transaction() as session:
            earlier = idempotency.find(
                session, api_key_id=caller.key_id, key=str(idempotency_key), payload_sha256=payload
            )
        if earlier is None:
            raise RuntimeError("an idempotency key vanished within its life") from None
        return Accepted(earlier, None)
    except DatabaseUnavailable:
        # The commit may have gone through before the connection broke: a row
        # without its photo would be worse than an orphan.
        raise
    except BaseException:
        _discard(image.key)
        raise
    return Accepted(inspection_id, inspection)


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
        products.product_for_submission(session, organisation_id=organisation_id, name=name)
        known = products.known_names(session, organisation_id)
    with _knowing:
        _known[organisation_id] = known


def _store(
    caller: Caller, data: bytes, header: ImageHeader, sha256: str, inspection_id: str
) -> StoredImage:
    key = image_key(caller.organisation_id, inspection_id, header.media_type, datetime.now(UTC))
    storage().put(key, data, header.media_type)
    return StoredImage(key, sha256, len(data), header.media_type, header.width, header.height)


def _discard(key: str) -> None:
    """No row was written, so nothing points to the object. What stays behind is an orphan."""
    try:
        storage().delete(key)
    except DefectScopeError as error:
        log.warning("orphan_left", key=key, error=str(error))
