"""An S3 server that misbehaves on demand: moto over HTTP, behind a proxy that we control."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import time
from enum import Enum, auto

import boto3
from botocore.config import Config

BUCKET = "defectscope"
KEYS = {"aws_access_key_id": "chaos", "aws_secret_access_key": "chaos"}

_ERROR = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n"
    b"Retry-After: 1\r\n\r\n"
)
_PIECE = 1 << 16
_SLOW_SECONDS = 0.4


class Mood(Enum):
    GOOD = auto()
    SLOW = auto()
    """Every piece takes its time."""
    FROZEN = auto()
    """Connections stand, nothing moves: as after SIGSTOP."""
    ERRORS = auto()
    """503 to everything."""
    AWAY = auto()
    """Nobody accepts."""


class FaultyStorage:
    """Runs until `stop`. Set `mood` from any thread."""

    def __init__(self) -> None:
        self.mood = Mood.GOOD
        self.port = _free_port()
        self._behind = _free_port()
        self._connections: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._moto: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> dict[str, str]:
        """For the environment of the stack that uses it."""
        return {
            "DEFECTSCOPE_STORAGE_URL": f"s3://{BUCKET}",
            "DEFECTSCOPE_S3_ENDPOINT_URL": self.url,
            "DEFECTSCOPE_S3_ACCESS_KEY_ID": KEYS["aws_access_key_id"],
            "DEFECTSCOPE_S3_SECRET_ACCESS_KEY": KEYS["aws_secret_access_key"],
        }

    def start(self) -> None:
        self._moto = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._behind)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _await_port(self._behind)
        self._thread.start()
        _await_port(self.port)
        self.client().create_bucket(Bucket=BUCKET)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        if self._moto is not None:
            self._moto.terminate()
            self._moto.wait()

    def client(self):  # type: ignore[no-untyped-def]
        """A client that goes around the proxy: for whoever checks."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self._behind}",
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
            **KEYS,
        )

    def become(self, mood: Mood) -> None:
        self.mood = mood
        if mood in {Mood.AWAY, Mood.ERRORS}:
            self._loop.call_soon_threadsafe(self._drop_all)

    def _drop_all(self) -> None:
        for writer in list(self._connections):
            writer.transport.abort()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", self.port))
        self._loop.run_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                if self.mood is Mood.AWAY:
                    return
                if self.mood is Mood.ERRORS:
                    await reader.read(_PIECE)
                    writer.write(_ERROR)
                    await writer.drain()
                    return
                behind_reader, behind_writer = await asyncio.open_connection(
                    "127.0.0.1", self._behind
                )
                self._connections.add(behind_writer)
                try:
                    await asyncio.gather(
                        self._copy(reader, behind_writer), self._copy(behind_reader, writer)
                    )
                finally:
                    self._connections.discard(behind_writer)
                    behind_writer.close()
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(_PIECE):
                if self.mood is Mood.SLOW:
                    await asyncio.sleep(_SLOW_SECONDS)
                while self.mood is Mood.FROZEN:
                    await asyncio.sleep(0.05)
                writer.write(piece)
                await writer.drain()
        finally:
            writer.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_port(port: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}")
