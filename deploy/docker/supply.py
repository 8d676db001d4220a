"""What the service runs on, as installed here: `supply.py pins`, or `supply.py sbom < ENVIRONMENT`.

What it is only tested and built with is left out. `pins` is for pip-audit; `sbom` is what
cyclonedx-py says of a whole environment, down to what runs.
"""

import json
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from deploy.docker.requirements import requirements

ROLES = ("api", "worker", "local")
"""The two images, and PostgreSQL and Redis of `make run`."""


def installed(wanted: Iterable[str]) -> dict[str, str]:
    """Versions of what these requirements bring, by canonical name.

    Raises PackageNotFoundError if one of `wanted` is not installed.
    """
    waiting = [(requirement, True) for requirement in map(Requirement, wanted)]
    seen: set[tuple[str, frozenset[str]]] = set()
    found: dict[str, str] = {}
    while waiting:
        requirement, is_wanted = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            # torch brings other things for other hardware: then pip left it out, and so do we.
            if is_wanted:
                raise
            continue
        for needed in map(Requirement, requires(name) or ()):
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in extras or {""}):
                waiting.append((needed, False))
    return found


def pins(found: dict[str, str]) -> list[str]:
    """One `name==version` each; advisories know 2.13.0, not 2.13.0+cpu."""
    return [f"{name}=={Version(found[name]).public}" for name in sorted(found)]


def sbom(environment: dict[str, Any], found: dict[str, str]) -> dict[str, Any]:
    """CycloneDX of `environment` without what is not in `found`.

    Raises ValueError if something in `found` is missing there, or if the result breaks the schema.
    """
    root = environment["metadata"]["component"]["bom-ref"]
    kept = [c for c in environment["components"] if canonicalize_name(c["name"]) in found]
    if missing := found.keys() - {canonicalize_name(component["name"]) for component in kept}:
        raise ValueError(f"not in the environment: {', '.join(sorted(missing))}")
    refs = {root, *(component["bom-ref"] for component in kept)}
    document = environment | {
        "components": kept,
        "dependencies": [
            entry | {"dependsOn": [ref for ref in entry.get("dependsOn", ()) if ref in refs]}
            for entry in environment["dependencies"]
            if entry["ref"] in refs
        ],
    }
    validator = JsonStrictValidator(SchemaVersion.from_version(document["specVersion"]))
    if error := validator.validate_str(json.dumps(document)):
        raise ValueError(f"not valid CycloneDX: {error}")
    return document


def of_the_service() -> dict[str, str]:
    """Everything that its roles need, by canonical name, with its version."""
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    return installed(line for role in ROLES for line in requirements(pyproject, role))


if __name__ == "__main__":
    if sys.argv[1] == "pins":
        print("\n".join(pins(of_the_service())))
    else:
        print(json.dumps(sbom(json.load(sys.stdin), of_the_service()), indent=1))
