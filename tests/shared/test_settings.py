"""Settings are read in one place and told in one table."""

import ast
import re
from pathlib import Path

import pytest

from shared.settings import Settings

ROOT = Path(__file__).parent.parent.parent


def test_only_settings_reads_the_environment():
    """Writing it (for children, for a library) is something else."""
    readers = []
    for folder in ("api", "worker", "shared", "migrations", "deploy"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                reads = (
                    isinstance(node, ast.Attribute)
                    and node.attr in {"getenv", "environ"}
                    and isinstance(node.value, ast.Name)
                    and node.value.id == "os"
                )
                if reads:
                    readers.append(str(path.relative_to(ROOT)))

    # local.py hands its own environment on to its children; worker sets a limit of OpenCV.
    assert set(readers) <= {"deploy/local.py", "worker/__init__.py"}


def test_the_table_in_the_readme_is_complete_and_has_the_defaults():
    readme = (ROOT / "README.md").read_text()
    rows = dict(re.findall(r"^\| `DEFECTSCOPE_(\w+)` \| ([^|]*) \|", readme, re.MULTILINE))

    assert set(rows) == {name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        if name == "model_cache":  # depends on the home folder
            continue
        shown = rows[name.upper()].strip().strip("`")
        assert shown == ("" if field.default is None else str(field.default)), name


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_says_what_it_is(name):
    assert Settings.model_fields[name].description


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:8000"), ("::1", "http://[::1]:8000")],
)
def test_links_name_the_address_as_urls_do(host, url):
    assert Settings(host=host, port=8000).base_url == url
