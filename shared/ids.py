"""Identifiers: a prefix that says what it is, then a ULID, so that they sort by time."""

from ulid import ULID


def new_id(prefix: str) -> str:
    """A fresh identifier such as `insp_01k9…`: lower case, safe in URLs and file names."""
    return f"{prefix}_{str(ULID()).lower()}"
