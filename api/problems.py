"""Errors as RFC 9457 problem documents: the only place that gives an error its HTTP status.

Every body is `application/problem+json` with a stable `code` for programs and
a `detail` that tells a person what to do.
"""

from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from shared.errors import (
    Conflict,
    DefectScopeError,
    Forbidden,
    Malformed,
    NotAnImage,
    NotFound,
    PreconditionFailed,
    PreconditionRequired,
    TooLarge,
    TooMany,
    Unauthenticated,
    Unavailable,
)

log = structlog.stdlib.get_logger()

MEDIA_TYPE = "application/problem+json"
MOST_TOLD = 5
"""Fields that an error names; a manifest, or a hostile query, may have thousands."""

# The first that fits, so the more special ones stand first; anything else rejected is 422.
_STATUS: tuple[tuple[type[DefectScopeError], HTTPStatus], ...] = (
    (Malformed, HTTPStatus.BAD_REQUEST),
    (Unauthenticated, HTTPStatus.UNAUTHORIZED),
    (Forbidden, HTTPStatus.FORBIDDEN),
    (NotFound, HTTPStatus.NOT_FOUND),
    (Conflict, HTTPStatus.CONFLICT),
    (PreconditionFailed, HTTPStatus.PRECONDITION_FAILED),
    (PreconditionRequired, HTTPStatus.PRECONDITION_REQUIRED),
    (TooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (NotAnImage, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
    (TooMany, HTTPStatus.TOO_MANY_REQUESTS),
    (Unavailable, HTTPStatus.SERVICE_UNAVAILABLE),
    (DefectScopeError, HTTPStatus.UNPROCESSABLE_ENTITY),
)

SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "RFC 9457 problem document.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "description": "`urn:defectscope:problem:` and the code."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong and what to do about it."},
        "code": {"type": "string", "description": "Stable: branch on this."},
        "field": {"type": "string", "description": "The field that is to blame."},
        "errors": {
            "type": "array",
            "description": "All fields that are to blame, where there are several.",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for the problems that a route answers."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def describe(document: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI document with our problems, also where FastAPI put its own shape of a 422."""
    schemas = document["components"]["schemas"]
    schemas["Problem"] = SCHEMA
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for path in document["paths"].values():
        for operation in path.values():
            if "422" in operation["responses"]:
                operation["responses"]["422"] = responses(422)[422]
    for message in document.get("webhooks", {}).values():
        for operation in message.values():
            # It is the receiver who answers; we look at the status alone.
            operation["responses"] = {"2XX": {"description": "It has arrived."}}
    return document


def status_of(error: DefectScopeError) -> HTTPStatus:
    return next(status for kind, status in _STATUS if isinstance(error, kind))


def problem(
    status: int, code: str, detail: str, headers: dict[str, str] | None = None, **more: Any
) -> JSONResponse:
    body = {
        "type": f"urn:defectscope:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": int(status),
        "detail": detail,
        "code": code,
        **more,
    }
    return JSONResponse(body, status, headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make every error of the app a problem document."""
    app.add_exception_handler(DefectScopeError, _deliberate)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, http_problem)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)


def _deliberate(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DefectScopeError)  # noqa: S101 - registered for this type
    status = status_of(error)
    headers = {}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(int(error.retry_after.total_seconds()))
        log.warning(
            "unavailable", code=error.code, path=request.url.path, cause=str(error.__cause__)
        )
    more = {} if error.field is None else {"field": error.field}
    return problem(status, error.code, str(error), headers, **more)


def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this type
    errors = field_errors(error.errors())
    return problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid_input",
        "; ".join(f"{entry['field']}: {entry['message']}" for entry in errors),
        field=errors[0]["field"],
        errors=errors,
    )


_PLACES = frozenset({"body", "query", "path", "header"})


def field_errors(errors: Any) -> list[dict[str, str]]:
    """Pydantic's errors as field and message: never the input, which may be secret or huge."""
    return [
        {
            "field": ".".join(str(part) for part in entry["loc"] if part not in _PLACES) or "body",
            "message": entry["msg"].removeprefix("Value error, "),
        }
        for entry in errors
    ]


def http_problem(_: Request, error: Exception) -> JSONResponse:
    """What the framework refuses: no such path, not this method."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type
    phrase = HTTPStatus(error.status_code).phrase
    code = {404: "not_found", 405: "method_not_allowed"}.get(
        error.status_code, phrase.lower().replace(" ", "_")
    )
    detail = {
        404: "There is nothing under this path; /docs lists what there is.",
        405: "This path does not take this method; /docs lists what it takes.",
    }.get(error.status_code, str(error.detail))
    return problem(error.status_code, code, detail, dict(error.headers or {}))


def _gone(_: Request, __: Exception) -> JSONResponse:
    """Nobody is left to read it."""
    return problem(HTTPStatus.BAD_REQUEST, "incomplete_request", "The request broke off.")


def _unexpected(request: Request, error: Exception) -> JSONResponse:
    log.error("unexpected_error", path=request.url.path, exc_info=error)
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal_error",
        "Something went wrong on our side; it is in the log.",
    )
