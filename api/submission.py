"""What a request submits: the photos and the fields beside them, bounded while they are read."""

import json
import math
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import structlog
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
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from api.admission import Room
from api.problems import MOST_TOLD, field_errors
from shared.accepting import Part
from shared.errors import (
    InvalidInput,
    Malformed,
    NotAnImage,
    TooLarge,
)

log = structlog.stdlib.get_logger()

_FORM_OVERHEAD = 128 * 1024
"""Bytes that a form may have beside the photo."""
_MAX_DRAIN = 32 * 1024 * 1024
"""A client that is over the limit is read on up to here, so that it sees the answer."""
MAX_BATCH_FILES = 100
MAX_BATCH_BYTES = 64 * 1024 * 1024
"""Of the whole form."""
BATCH_PRIORITY = 2
"""Unless the sender says otherwise: whoever submits single photos is waiting for them."""
_MAX_JSON = 64 * 1024
_MAX_METADATA = 16 * 1024
_MAX_METADATA_DEPTH = 32


def _storable(text: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError("control characters are not allowed")
    return encodable(text)


def encodable(text: str) -> str:
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
            encodable(node)
        case float() if not math.isfinite(node):
            raise ValueError("a number is too large")


Instant = Annotated[AwareDatetime, AfterValidator(_instant)]
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
    captured_at: Instant | None = Field(None, description="ISO 8601 with a time zone.")
    metadata: Annotated[dict[str, Any], BeforeValidator(_metadata)] = Field(
        default_factory=dict, description="A JSON object of your own, up to 16 kB."
    )
    priority: int = Field(5, ge=0, le=9, description="9 is judged first.")

    @property
    def part(self) -> Part:
        return Part(
            serial=self.serial,
            lot=self.lot,
            line=self.line,
            station=self.station,
            captured_at=self.captured_at,
            annotations=self.metadata,
        )


@dataclass(frozen=True)
class Submission:
    fields: Fields
    data: bytes = b""
    upload_id: str | None = None
    """Instead of data: what was put into storage before."""


async def read_submission(request: Request, room: Room, *, max_bytes: int) -> Submission:
    """The photo and its fields: a form, a raw `image/*` body with query fields, or JSON with the
    id of an upload.

    Bytes are counted as they arrive. Raises TooLarge, Malformed, NotAnImage,
    InvalidInput, and TooMany where `room` has no more room.
    """
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        return await _read_form(request, room, max_bytes)
    if media_type.startswith("image/") or media_type == "application/octet-stream":
        data = await read_body(request, room, max_bytes=max_bytes)
        return Submission(_fields(dict(request.query_params)), data)
    if media_type == "application/json":
        return await _read_json(request, room)
    raise NotAnImage(
        "Send the photo as multipart/form-data with a part `file`, as the body with Content-Type "
        "image/jpeg or image/png, or as JSON with the `upload_id` of a direct upload.",
        code="unsupported_content_type",
    )


async def read_body(request: Request, room: Room, *, max_bytes: int) -> bytes:
    """A photo, counted as it arrives. Raises TooLarge."""
    return await _joined(_counted(request, room, max_bytes, _too_large(max_bytes)))


async def _joined(pieces: AsyncIterable[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def _read_json(request: Request, room: Room) -> Submission:
    refusal = TooLarge(f"The JSON may have at most {_MAX_JSON} bytes.")
    body = await _joined(_counted(request, room, _MAX_JSON, refusal))
    try:
        given = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"The JSON cannot be read: {error}.") from error
    upload_id = given.pop("upload_id", None) if isinstance(given, dict) else None
    if not isinstance(upload_id, str):
        raise InvalidInput(
            "Send a JSON object with the `upload_id` that POST /v1/uploads gave.", field="upload_id"
        )
    if isinstance(given.get("metadata"), dict):
        # As in a form, so that it is checked in the same way.
        given["metadata"] = json.dumps(given["metadata"], ensure_ascii=False)
    return Submission(_fields(given), upload_id=upload_id)


async def _read_form(request: Request, room: Room, max_bytes: int) -> Submission:
    limit = max_bytes + _FORM_OVERHEAD
    async with _form(
        request, room, limit=limit, refusal=_too_large(max_bytes), max_files=1
    ) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise _file_missing()
        data = await file.read()
        if len(data) > max_bytes:
            raise _too_large(max_bytes)
        return Submission(_fields(_texts(form)), data)


@dataclass(frozen=True)
class BatchSubmission:
    fields: Fields
    batch_id: str | None
    """An earlier batch to add to."""
    photos: list[tuple[str, bytes]]
    """Name and bytes of each file; those over the limit of one photo are as they came."""


async def read_batch(request: Request, room: Room) -> BatchSubmission:
    """A form with many files in parts `file`, and fields that hold for all of them.

    Raises as `read_submission`.
    """
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type != "multipart/form-data":
        raise NotAnImage(
            "Send the photos as multipart/form-data, each in a part `file`.",
            code="unsupported_content_type",
        )
    async with _form(
        request, room, limit=MAX_BATCH_BYTES, refusal=_batch_too_large(), max_files=MAX_BATCH_FILES
    ) as form:
        files = [file for file in form.getlist("file") if isinstance(file, UploadFile)]
        if not files:
            raise _file_missing()
        photos = [(_clean(file.filename), await file.read()) for file in files]
        texts = {"priority": BATCH_PRIORITY, **_filled(_texts(form))}
        batch_id = texts.pop("batch_id", None)
        return BatchSubmission(_fields(texts), batch_id, photos)


def _clean(name: str | None) -> str:
    """A name as it came, but such that it can be told in the answer: a form may claim a charset
    that makes lone surrogates.
    """
    return (name or "").encode(errors="replace").decode()


def _file_missing() -> InvalidInput:
    return InvalidInput(
        "The form has no photo: send it as a file in the part `file`.",
        code="file_missing",
        field="file",
    )


@asynccontextmanager
async def _form(
    request: Request, room: Room, *, limit: int, refusal: TooLarge, max_files: int
) -> AsyncGenerator[FormData, None]:
    class InMemory(MultiPartParser):
        # The whole body is bounded, so nothing needs to touch the disk.
        spool_max_size = limit

    parser = InMemory(
        request.headers,
        _counted(request, room, limit, refusal),
        max_files=max_files,
        max_fields=len(Fields.model_fields) + 1,
        max_part_size=_MAX_METADATA + 1024,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Malformed(f"The form cannot be read: {error.message}") from error
    except (KeyError, ValueError) as error:
        raise Malformed("The form cannot be read: its boundary or headers are broken.") from error
    try:
        yield form
    finally:
        await form.close()


def _texts(form: FormData) -> dict[str, Any]:
    texts: dict[str, Any] = {}
    for name, value in form.multi_items():
        if isinstance(value, str):
            if name in texts:
                raise InvalidInput(f"The field {name!r} came twice.", field=_clean(name))
            texts[name] = value
    return texts


def _filled(texts: dict[str, Any]) -> dict[str, Any]:
    # An empty form field means that nothing was filled in.
    return {name: value for name, value in texts.items() if value != ""}


def _fields(texts: dict[str, Any]) -> Fields:
    try:
        return Fields.model_validate(_filled(texts))
    except ValidationError as error:
        entries = field_errors(error.errors())
        raise InvalidInput(
            "; ".join(f"{entry['field']}: {entry['message']}" for entry in entries[:MOST_TOLD]),
            field=entries[0]["field"],
        ) from error


async def _counted(
    request: Request, room: Room, limit: int, refusal: TooLarge
) -> AsyncGenerator[bytes, None]:
    """The body's pieces; raises `refusal` once there are more than `limit` bytes in all.

    A little more than the limit is read and thrown away, because a client that is cut off while
    it sends seldom reads the answer.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit + _MAX_DRAIN:
        raise refusal
    seen = 0
    async for piece in request.stream():
        seen += len(piece)
        if seen > limit + _MAX_DRAIN:
            break
        if seen <= limit:
            room.take(len(piece))
            yield piece
    if seen > limit:
        raise refusal


def _batch_too_large() -> TooLarge:
    return TooLarge(
        f"One request may have at most {MAX_BATCH_BYTES} bytes ({MAX_BATCH_BYTES // 2**20} MB); "
        "send the rest in another with the same `batch_id`."
    )


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"A photo may have at most {limit} bytes ({limit // 2**20} MB); send a smaller one."
    )
