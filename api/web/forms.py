"""The fields of a posted form as what the API takes: the same checks, the same words.

Pages call the functions behind the HTTP API with them, so a page can do nothing that the API
cannot, and does it in the same way.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlencode

from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ValidationError

from api.bodies import refusal

M = TypeVar("M", bound=BaseModel)


def text(request: Request, name: str) -> str:
    """What was typed, without spaces around it; empty where nothing was."""
    return several(request, name)[0].strip() if several(request, name) else ""


def several(request: Request, name: str) -> list[str]:
    """The values of all boxes that were ticked."""
    form: dict[str, list[str]] = request.state.form
    return form.get(name, [])


def words(request: Request, name: str) -> list[str]:
    """What was typed with commas between."""
    return [word.strip() for word in text(request, name).split(",") if word.strip()]


def as_input(model: type[M], values: Mapping[str, Any]) -> M:
    """The input of the API's function. Raises InvalidInput, as the API does."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise refusal(error) from error


def done(path: str, **query: object) -> Response:
    """To the page that shows it: loaded again, nothing is posted twice."""
    following = f"?{urlencode(query)}" if query else ""
    return RedirectResponse(path + following, HTTPStatus.SEE_OTHER)
