"""docker-compose.yml as Compose reads it."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
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

        return re.sub(r"\$\{(\w+)(?::([-?])([^}]*))?\}", replace, str(template))

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
