"""Headers of every answer: what a browser may do with it, and how much the caller has left."""

from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_NOTHING = b"default-src 'none'; frame-ancestors 'none'"
_DOCUMENTATION = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data:; frame-ancestors 'none'"
)
"""The generated page has its script inline."""
_HTTPS_ONLY = b"max-age=31536000"


class AnswerHeaders:
    """ASGI middleware. Handlers that set one of these themselves keep theirs."""

    def __init__(self, app: ASGIApp, *, is_https: bool) -> None:
        """`is_https`: so the callers say, whatever the proxy in front speaks with us. Cookies are
        for https alone then.
        """
        self._app = app
        self._is_https = is_https

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._is_https:
            scope["scheme"] = "https"
        state: dict[str, Any] = scope.setdefault("state", {})

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_missing(scope, state, message)]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _missing(scope: Scope, state: dict[str, Any], message: Message) -> list[tuple[bytes, bytes]]:
    path = scope["path"]
    policy = _DOCUMENTATION if path.startswith(("/docs", "/static")) else _NOTHING
    wanted = [*_ALWAYS, (b"content-security-policy", policy), (b"cache-control", b"no-store")]
    if scope["scheme"] == "https":
        wanted.append((b"strict-transport-security", _HTTPS_ONLY))
    if bucket := state.get("bucket"):
        wanted += bucket.headers()
    present = {name for name, _ in message["headers"]}
    return [(name, value) for name, value in wanted if name not in present]
