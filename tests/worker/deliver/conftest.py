"""Receivers over real sockets, good and bad."""

import asyncio
import contextlib
import socket
import ssl
import sys
import threading
from dataclasses import dataclass, field

import pytest
import trustme


@dataclass
class Request:
    path: str
    headers: dict
    body: bytes


@dataclass
class Receiver:
    """Answers what `answer(request, writer)` writes; remembers connections and requests."""

    answer: object
    tls: ssl.SSLContext | None = None
    requests: list = field(default_factory=list)
    connections: int = 0
    port: int = 0

    @property
    def url(self):
        # As localhost: certificates are for names.
        return f"https://localhost:{self.port}" if self.tls else f"http://127.0.0.1:{self.port}"

    def start(self):
        self._loop = asyncio.new_event_loop()
        started = threading.Event()

        async def serve():
            self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0, ssl=self.tls)
            self.port = self._server.sockets[0].getsockname()[1]
            started.set()
            with contextlib.suppress(asyncio.CancelledError):
                await self._server.serve_forever()

        self._thread = threading.Thread(
            target=lambda: self._loop.run_until_complete(serve()), daemon=True
        )
        self._thread.start()
        assert started.wait(5)

    def stop(self):
        def cancel():
            for task in asyncio.all_tasks(self._loop):
                task.cancel()

        self._loop.call_soon_threadsafe(cancel)
        self._thread.join(5)

    async def _talk(self, reader, writer):
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                first, *lines = head.strip().split("\r\n")
                headers = {
                    name.lower(): value for name, value in (line.split(": ", 1) for line in lines)
                }
                body = await reader.readexactly(int(headers["content-length"]))
                request = Request(first.split()[1], headers, body)
                self.requests.append(request)
                if await self.answer(request, writer) == "close":
                    break
                await writer.drain()
        writer.close()


def reply(status, *headers, body=b""):
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers]

    async def answer(request, writer):
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    return answer


@pytest.fixture
def receiver():
    """Makes receivers; stops them afterwards."""
    started = []

    def make(answer=None, tls=None):
        receiver = Receiver(answer or reply(200), tls)
        receiver.start()
        started.append(receiver)
        return receiver

    make.reply = reply
    yield make
    for one in started:
        one.stop()


_connects: list[list] = []


def _note(event, arguments):
    if event == "socket.connect" and _connects and arguments[0].family != socket.AF_UNIX:
        _connects[-1].append(arguments[1][:2])


# What Python's sockets connect to, whoever asks. There is no way to take such a hook back.
sys.addaudithook(_note)


@pytest.fixture
def connected():
    """(address, port) of every connection that is begun meanwhile."""
    _connects.append([])
    yield _connects[-1]
    _connects.pop()


@pytest.fixture
def authority(monkeypatch, tmp_path):
    """Signs certificates; whoever is made after it trusts it, by the variable of OpenSSL."""
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    return made


@pytest.fixture
def present():
    """Has a server show the certificate of an authority for a name, from now on."""

    def present(authority, name, tls=None):
        tls = tls or ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(name).configure_cert(tls)
        return tls

    return present
