"""What goes into the images: the wheel, the libraries, the files that Docker gets to see."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from deploy.docker.requirements import requirements
from deploy.docker.supply import installed

ROOT = Path(__file__).parents[3]
PACKAGES = {"api", "deploy", "migrations", "shared", "worker"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The names of all files in the wheel, built as the Dockerfiles build it."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def sources(folder, pattern="*"):
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / folder).rglob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_our_packages_and_nothing_else(wheel):
    assert {name.split("/")[0] for name in wheel} == PACKAGES | {"defectscope-0.1.0.dist-info"}


def test_the_wheel_holds_every_module(wheel):
    assert set().union(*(sources(package, "*.py") for package in PACKAGES)) <= wheel


def test_the_wheel_holds_the_bundled_model_and_the_templates(wheel):
    assert {
        "worker/bundles/bottle/manifest.json",
        "migrations/script.py.mako",
        "worker/train/report.html.jinja",
    } <= wheel
    assert sources("worker/bundles") <= wheel


def test_the_libraries_of_the_api_image_bring_no_torch_and_no_image_decoder():
    found = installed(requirements(pyproject(), "api")).keys()

    assert {"fastapi", "starlette", "uvicorn", "sqlalchemy", "celery"} <= found
    assert not found & {"torch", "torchvision", "opencv-python-headless", "pillow"}


def test_the_worker_image_installs_torch_and_torchvision_of_one_release():
    lines = requirements(pyproject(), "worker")

    assert [line for line in lines if line.startswith("torch")] == [
        "torch==2.13.0",
        "torchvision==0.28.0",
    ]
    assert not [line for line in lines if line.startswith(("fastapi", "uvicorn"))]


@pytest.mark.parametrize("role", ["api", "worker"])
def test_an_image_runs_without_privileges_and_is_made_from_files_that_docker_sees(role):
    dockerfile = (ROOT / f"deploy/docker/{role}.Dockerfile").read_text()
    visible = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))

    assert re.findall(r"^USER (\S+)$", dockerfile, re.MULTILINE) == ["defectscope"]
    copied = re.search(r"^COPY ((?:[\w./]+ )+)/build/$", dockerfile, re.MULTILINE)
    assert copied
    for name in copied[1].split():
        assert (ROOT / name).is_file()
        assert name.split("/")[0] in visible
    assert visible == PACKAGES | {"pyproject.toml", "README.md", "LICENSE"}


def test_docker_sees_nothing_but_what_is_named():
    lines = (ROOT / ".dockerignore").read_text().splitlines()

    assert next(line for line in lines if line and not line.startswith("#")) == "*"


def pyproject():
    return (ROOT / "pyproject.toml").read_text()
