"""The whole stack as a person starts it, and a browser to look at it. Imports nothing of ours."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from playwright.sync_api import Browser, sync_playwright

COMMAND = str(Path(sys.executable).parent / "defectscope")
CHROMIUM = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
AXE = "axe-core@4.14.1"


class Stack:
    def __init__(self, data_dir, **environment):
        self.data_dir = data_dir
        self.process = subprocess.Popen(
            [COMMAND, "up", "--port", "0", "--data-dir", str(data_dir)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={k: v for k, v in os.environ.items() if not k.startswith("DEFECTSCOPE_")}
            | environment,
        )
        line = self.process.stdout.readline()
        if not line.startswith("ready "):
            raise AssertionError(f"no ready line: {line!r} {self.process.communicate()}")
        self.url = line.split()[1]
        self.key = (data_dir / "admin.key").read_text().strip()
        self.http = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=60
        )

    def children(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def submit(self, path, **fields):
        return self.http.post(
            "/v1/inspections", files={"file": (path.name, path.read_bytes())}, data=fields
        )

    def run(self, *arguments):
        environment = {**os.environ, "DEFECTSCOPE_URL": self.url, "DEFECTSCOPE_API_KEY": self.key}
        return subprocess.run(
            [COMMAND, *arguments], capture_output=True, text=True, env=environment, check=False
        )

    def stop(self, with_signal=signal.SIGINT):
        children = self.children()
        self.process.send_signal(with_signal)
        self.process.wait(60)
        _, alive = psutil.wait_procs(children, timeout=20)
        return alive


@pytest.fixture(scope="session")
def new_stack() -> Callable[..., Stack]:
    return Stack


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, installed now where it is missing.

    Playwright leaves an event loop running in this thread until it is stopped, and no test
    that comes after could run one of its own: it lives as long as its module, no longer.
    """
    if shutil.which("chromium") is None:
        if os.geteuid() != 0:
            pytest.skip("needs chromium, and only root can install it: apt-get install chromium")
        install = ["apt-get", "install", "--yes", "--no-install-recommends", "chromium"]
        for command in (["apt-get", "update"], install):
            subprocess.run(command, check=True, capture_output=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=list(CHROMIUM)
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The accessibility checker, from npm."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm: apt-get install npm")
    folder = tmp_path_factory.mktemp("axe")
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), AXE],
        check=True,
        capture_output=True,
    )
    return str(folder / "node_modules" / "axe-core" / "axe.min.js")
