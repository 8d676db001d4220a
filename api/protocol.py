"""HTTP for clients that may be slow or hostile: uvicorn has no limit on how long a request takes.

A request has to come at a steady pace, and its headers have to be short; otherwise it is answered
408 or 431 and the connection closed. A connection that sends nothing is closed as well, and one
that does not read its answer. The app hears of a request when its body is there, or a good piece of
it: whoever dawdles costs a socket.
"""

import asyncio
from http import HTTPStatus
from typing import Any, cast

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from api.problems import MEDIA_TYPE, problem

WINDOW_SECONDS = 10.0
LEAST_BYTES = 160 * 1024
"""Of a body, in each window that it takes: 16 kB a second."""
MOST_HEADER_BYTES = 64 * 1024
UNREAD_SECONDS = 60.0
"""After which a client that takes nothing of its answer is cut off: some work on what they have
read before they read on."""
_BEGINNING_BYTES = 16 * 1024
"""Of a body, before the app hears of it; less than what uvicorn holds before it stops reading."""


_BEGUN = "defectscope.begun"
_TOO_LONG = (
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "headers_too_large",
    f"The headers may have {MOST_HEADER_BYTES} bytes.",
)


class PacedProtocol(HttpToolsProtocol):
    """One connection."""

    _timer: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _in_window = 0
    """Bytes of the body that this window has brought."""
    _header_bytes = 0
    _is_in_body = False
    _body_bytes = 0

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._has_begun = asyncio.Event()
        app = cast(ASGIApp, self.app)

        async def once_begun(scope: Scope, receive: Receive, send: Send) -> None:
            await scope.pop(_BEGUN).wait()
            if self.transport.is_closing():
                return
            # What came in one piece was not seen growing.
            if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEADER_BYTES:
                await problem(*_TOO_LONG)(scope, receive, send)
                return
            await app(scope, receive, send)

        self.app = cast(Any, once_begun)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._open_window()

    def connection_lost(self, exc: Exception | None) -> None:
        self._close_window()
        self._end_unread()
        self._has_begun.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._timer is None and not self._is_answering:
            self._open_window()
        self._in_window += len(data)
        if not self._is_in_body:
            self._header_bytes += len(data)
        super().data_received(data)
        # Begun anew where they came to their end meanwhile.
        if self._header_bytes > MOST_HEADER_BYTES:
            self._refuse_headers()

    def on_headers_complete(self) -> None:
        self._is_in_body = True
        self._header_bytes = self._body_bytes = 0
        self._has_begun = asyncio.Event()
        cast(dict[str, Any], self.scope)[_BEGUN] = self._has_begun
        if self.expect_100_continue:
            # The client waits for the app to ask for the body.
            self._has_begun.set()
        if self._timer is None:
            # It came in one piece with the end of the request before it.
            self._open_window()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes >= _BEGINNING_BYTES:
            self._has_begun.set()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_body = False
        self._header_bytes = 0
        self._close_window()
        self._has_begun.set()
        super().on_message_complete()

    def pause_writing(self) -> None:
        self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        self._end_unread()
        super().resume_writing()

    def _end_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _open_window(self) -> None:
        self._in_window = 0
        self._timer = self.loop.call_later(WINDOW_SECONDS, self._end_window)

    def _close_window(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_window(self) -> None:
        # While we read nothing ourselves, the client is not to blame.
        is_steady = self._is_in_body and self._in_window >= LEAST_BYTES
        if is_steady or self.flow.read_paused:
            self._open_window()
            return
        self._refuse(
            HTTPStatus.REQUEST_TIMEOUT,
            "too_slow",
            f"The request did not come within {WINDOW_SECONDS:.0f} s, nor at "
            f"{LEAST_BYTES / WINDOW_SECONDS / 1024:.0f} kB a second.",
        )

    def _refuse_headers(self) -> None:
        if self._is_answering:
            # Of the request before: what would be said now would be taken for a part of it.
            self.transport.abort()
        elif not self.transport.is_closing():
            self._refuse(*_TOO_LONG)

    def _refuse(self, status: HTTPStatus, code: str, detail: str) -> None:
        self._close_window()
        has_answer = self._is_in_body and self.cycle.response_started
        if not has_answer:
            body = bytes(problem(status, code, detail).body)
            self.transport.write(
                f"HTTP/1.1 {status.value} {status.phrase}\r\n"
                f"content-type: {MEDIA_TYPE}\r\n"
                f"content-length: {len(body)}\r\n"
                "connection: close\r\n\r\n".encode()
                + body
            )
        self.transport.close()
