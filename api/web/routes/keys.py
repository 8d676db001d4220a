"""Pages about keys: create (shown once), list, revoke; and the audit log."""

from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from api.key_schemas import KeyIn
from api.routes import audit as audit_api
from api.routes import keys as keys_api
from api.web import forms, once
from api.web.rendering import page
from api.web.visiting import AdminVisitor, PageRoute
from shared import keys
from shared.errors import InvalidInput
from shared.sessions import Visitor
from shared.tables import Scope

router = APIRouter(route_class=PageRoute, include_in_schema=False)

_PATH = "/keys"
_ENTRIES = 50
_SCOPES = {
    Scope.SUBMIT: "send photos; to poll, add the next",
    Scope.READ: "see inspections, their pictures, and models",
    Scope.REVIEW: "decide about parts on hold",
    Scope.ADMIN: "everything, also keys, webhooks and thresholds",
}
_DONE = {"revoked": "The key is revoked. Whoever still uses it is refused from now on."}


@router.get(_PATH)
def list_keys(request: Request, visitor: AdminVisitor, did: str = "") -> Response:
    secret = once.read(request)
    answer = _show(request, visitor, notice=_DONE.get(did, ""), secret=secret)
    return once.forget(answer, _PATH) if secret else answer


@router.post(_PATH)
def create(request: Request, visitor: AdminVisitor) -> Response:
    try:
        asked = forms.as_input(
            KeyIn,
            {
                "name": forms.text(request, "name"),
                "scopes": forms.several(request, "scopes"),
                "expires_at": _end_of(forms.text(request, "expires_on")),
                "requests_per_second": forms.text(request, "requests_per_second") or None,
                "max_queued": forms.text(request, "max_queued") or None,
            },
        )
        made = keys_api.create(visitor.caller, asked)
    except InvalidInput as error:
        return _show(request, visitor, problem=str(error), status=HTTPStatus.UNPROCESSABLE_ENTITY)
    return once.show(request, _PATH, made.key)


@router.post("/keys/{key_id}/revoke")
def revoke(key_id: str, visitor: AdminVisitor) -> Response:
    keys_api.revoke(key_id, visitor.caller)
    is_own = key_id == visitor.caller.key_id
    return forms.done("/login") if is_own else forms.done(_PATH, did="revoked")


@router.get("/audit")
def read_audit(
    request: Request,
    visitor: AdminVisitor,
    page_token: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    found = audit_api.read(visitor.caller, _ENTRIES, page_token)
    following = urlencode({"page_token": found.next_page_token})
    return page(
        request,
        "audit.html",
        entries=found.entries,
        is_first_page=not page_token,
        next_url=f"/audit?{following}" if found.next_page_token else "",
        names={key.id: key.name for key in keys_api.list_keys(visitor.caller).keys},
    )


def _show(
    request: Request,
    visitor: Visitor,
    *,
    notice: str = "",
    problem: str = "",
    secret: str = "",
    status: int = HTTPStatus.OK,
) -> Response:
    now = datetime.now(UTC)
    rows = keys_api.list_keys(visitor.caller).keys
    fallen = [row for row in rows if row.revoked_at or (row.expires_at and row.expires_at <= now)]
    return page(
        request,
        "keys.html",
        status=status,
        notice=notice,
        problem=problem,
        valid=[row for row in rows if row not in fallen],
        fallen=fallen,
        new={"key": secret, "id": _id_of(secret)},
        given=request.state.form if problem else {},
        scopes=_SCOPES,
        own=visitor.caller.key_id,
        tomorrow=(now + timedelta(days=1)).date().isoformat(),
    )


def _id_of(key: str) -> str:
    try:
        return keys.parse(key)[0]
    except InvalidInput:
        return ""


def _end_of(day: str) -> datetime | None:
    """The last moment of a day in UTC; None where none was given. Raises InvalidInput."""
    if not day:
        return None
    try:
        midnight = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC)
        return midnight + timedelta(days=1)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(
            "This is not a day; write it as 2027-01-31.", field="expires_on"
        ) from error
