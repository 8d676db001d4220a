"""JSON bodies: read after the key was checked, and no more of them than has to fit.

As body parameters they would be read by FastAPI, whole and from anybody, before the key is checked.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from api.problems import MOST_TOLD, field_errors
from shared.errors import InvalidInput, Malformed, TooLarge

M = TypeVar("M", bound=BaseModel)

_MOST_BYTES = 64 * 1024


async def read_json(request: Request, model: type[M], *, max_bytes: int = _MOST_BYTES) -> M:
    """The body. Raises TooLarge, Malformed where it is not JSON, and InvalidInput."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > max_bytes:
            raise TooLarge(f"This body may have at most {max_bytes} bytes.")
    try:
        return model.model_validate_json(bytes(body))
    except ValidationError as error:
        if error.errors()[0]["type"] == "json_invalid":
            message = field_errors(error.errors())[0]["message"]
            raise Malformed(f"The body is not JSON: {message}.") from error
        raise refusal(error) from error


def refusal(error: ValidationError) -> InvalidInput:
    """The same in our words, with the fields that are to blame."""
    entries = field_errors(error.errors())
    return InvalidInput(
        "; ".join(f"{entry['field']}: {entry['message']}" for entry in entries[:MOST_TOLD]),
        field=entries[0]["field"],
    )


def reading(model: type[M]) -> Callable[[Request], Awaitable[M]]:
    """A dependency that reads a small body of this kind."""

    async def read(request: Request) -> M:
        return await read_json(request, model)

    return read


def described(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads it."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)  # those are in answers, too
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
