"""Print what a role needs, one requirement a line: `requirements.py PYPROJECT EXTRA`.

An image installs these in a layer of their own, which a change of our code
does not touch.
"""

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: str, extra: str) -> list[str]:
    """The project's own dependencies and those of one extra."""
    project = tomllib.loads(pyproject)["project"]
    return [*project["dependencies"], *project["optional-dependencies"][extra]]


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]).read_text(encoding="utf-8"), sys.argv[2])))
