"""Identifiers: a prefix that says what it is, then a ULID, so that they sort by time."""

import re

from ulid import ULID


def new_id(prefix: str) -> str:
    """A fresh identifier such as `insp_01k9…`: lower case, safe in URLs and file names."""
    return f"{prefix}_{str(ULID()).lower()}"


def is_id(text: str, prefix: str) -> bool:
    """Whether this has the form of such an identifier.

    What has not is never asked for: PostgreSQL refuses NUL characters and lone surrogates.
    """
    return re.fullmatch(rf"{prefix}_[0-9a-z]{{26}}", text) is not None
