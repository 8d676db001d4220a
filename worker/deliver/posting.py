"""One POST to somebody else's server: guarded, bounded in time and size, never redirected.

The connection is made here, to an address that was looked up and checked a moment before: there is
no second look-up that could say something else.
"""

import asyncio
import math
import ssl
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import httpcore

from shared import addresses
from shared.addresses import AddressRefused, Networks, Target

TIMEOUT_SECONDS = 15.0
_CONNECT_SECONDS = 5.0
_REPLY_BYTES = 2048
"""Of the reply that is read and kept; no more of it is taken off the wire than fits a buffer."""
_LOOK_UPS = 16
_CONNECTIONS = 256
_USER_AGENT = b"DefectScope-Webhooks/1"


@dataclass(frozen=True)
class Answer:
    """What came of a POST: a status, or an error, or both where the status does not count."""

    status_code: int | None = None
    error: str | None = None
    reply: str = ""
    retry_after: timedelta | None = None


class Poster:
    """Keeps connections to receivers. Used within one event loop."""

    def __init__(self, allowed: Networks) -> None:
        # Certificates are held against the system's authorities, or those in SSL_CERT_FILE.
        # One pool for each scheme: the guard has to know it, and is told only host and port.
        self._pools = {
            scheme: httpcore.AsyncConnectionPool(
                ssl_context=ssl.create_default_context(),
                max_connections=_CONNECTIONS,
                keepalive_expiry=30,
                network_backend=_Guarded(allowed, scheme),
            )
            for scheme in ("https", "http")
        }

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Never raises for what the receiver does, or does not."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await self._post(addresses.parse_url(url), headers, body)
        except AddressRefused as error:
            return Answer(error=str(error))
        except TimeoutError:
            return Answer(error=f"no complete answer within {TIMEOUT_SECONDS:.0f} s")
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            return Answer(error=f"{type(error).__name__}: {error}"[:300])
        except (OSError, ssl.SSLError) as error:
            return Answer(error=f"{type(error).__name__}: {error}"[:300])

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.aclose()

    async def _post(self, target: Target, headers: Mapping[str, str], body: bytes) -> Answer:
        host = f"[{target.host}]" if ":" in target.host else target.host
        is_usual = target.port == (443 if target.scheme == "https" else 80)
        async with self._pools[target.scheme].stream(
            "POST",
            httpcore.URL(
                scheme=target.scheme.encode(),
                host=target.host.encode(),
                port=target.port,
                target=target.path.encode(),
            ),
            headers=[
                (b"Host", host.encode() if is_usual else f"{host}:{target.port}".encode()),
                (b"User-Agent", _USER_AGENT),
                (b"Content-Type", b"application/json"),
                (b"Content-Length", str(len(body)).encode()),
                *((name.encode(), value.encode()) for name, value in headers.items()),
            ],
            content=body,
        ) as response:
            start = bytearray()
            async for piece in response.aiter_stream():
                start += piece
                if len(start) >= _REPLY_BYTES:
                    # Leaving early closes the connection: nobody waits for the rest.
                    break
        is_redirect = response.status // 100 == 3
        return Answer(
            status_code=response.status,
            error="redirects are not followed; give the final URL" if is_redirect else None,
            # PostgreSQL keeps no NUL.
            reply=bytes(start[:_REPLY_BYTES]).decode(errors="replace").replace("\0", "\ufffd"),
            retry_after=_retry_after(response.headers),
        )


class _Guarded(httpcore.AsyncNetworkBackend):
    """Connects only where the guard lets it, whatever asks."""

    def __init__(self, allowed: Networks, scheme: str) -> None:
        self._allowed = allowed
        self._scheme = scheme
        self._inner = httpcore.AnyIOBackend()
        # Of its own: a slow name server must not hold up the database.
        self._resolver = ThreadPoolExecutor(_LOOK_UPS, thread_name_prefix="resolve")

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        found = await asyncio.get_running_loop().run_in_executor(
            self._resolver, addresses.look_up, host, port
        )
        error: Exception | None = None
        for address in addresses.check(self._scheme, host, found, self._allowed):
            try:
                return await self._inner.connect_tcp(address, port, _CONNECT_SECONDS)
            except (httpcore.NetworkError, httpcore.TimeoutException) as failed:
                error = failed
        raise error or OSError("no address")

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise AddressRefused("Webhooks go over TCP.")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


def _retry_after(headers: list[tuple[bytes, bytes]]) -> timedelta | None:
    """RFC 9110: seconds, or a date."""
    for name, value in headers:
        if name.lower() != b"retry-after":
            continue
        text = value.decode("ascii", errors="replace").strip()
        try:
            if text.isdigit():
                return timedelta(seconds=min(int(text[:9]), 10**8))
            wait = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
            return timedelta(seconds=max(0, math.ceil(wait)))
        except (ValueError, TypeError, OverflowError):
            return None
    return None
