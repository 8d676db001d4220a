"""Photos on the command line: files, folders and globs become a list of paths."""

import glob
from collections.abc import Sequence
from pathlib import Path

from shared.errors import InvalidInput

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})


def find_photos(paths: Sequence[str]) -> list[Path]:
    """All photos under the given paths, sorted, each once.

    A file that is named is taken whatever its suffix (the content decides);
    in folders only *.jpg, *.jpeg and *.png count. Raises InvalidInput.
    """
    found: dict[Path, None] = {}
    for given in paths:
        matches = [Path(given)] if Path(given).exists() else [Path(m) for m in glob.glob(given)]  # noqa: PTH207 - absolute ones too
        if not matches:
            raise InvalidInput(f"There is nothing at {given}.")
        for match in sorted(matches):
            if match.is_dir():
                inside = sorted(
                    path
                    for path in match.rglob("*")
                    if path.suffix.lower() in _SUFFIXES and path.is_file()
                )
                if not inside:
                    raise InvalidInput(f"There are no .jpg or .png photos in {match}.")
                found.update(dict.fromkeys(inside))
            else:
                found[match] = None
    return list(found)
