"""A secret that is shown once, on its way from the answer to a form to the page that follows.

It travels in a cookie that only this page is sent and that scripts cannot read. The page takes it
away, so loading it again shows nothing, and no store of ours ever holds it.
"""

from http import HTTPStatus

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

_COOKIE = "defectscope-once"
_SECONDS = 60


def show(request: Request, path: str, secret: str) -> Response:
    """Go to the page that shows it."""
    answer = RedirectResponse(path, HTTPStatus.SEE_OTHER)
    answer.set_cookie(
        _COOKIE,
        secret,
        max_age=_SECONDS,
        path=path,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


def read(request: Request) -> str:
    """Empty where there is nothing to be shown. Whoever shows it checks that it is theirs."""
    return request.cookies.get(_COOKIE, "")


def forget(answer: Response, path: str) -> Response:
    answer.delete_cookie(_COOKIE, path=path)
    return answer
