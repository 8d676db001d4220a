"""Tokens of pages: where rows are numbered, the number of the last one that was shown."""

from shared.errors import InvalidInput


def read_number(page_token: str, *, largest: int) -> int:
    """The number that a `page_token` holds. Raises InvalidInput for what none of ours can be."""
    if not (page_token.isascii() and page_token.isdigit() and len(page_token) <= len(str(largest))):
        raise not_ours()
    if (number := int(page_token)) > largest:
        raise not_ours()
    return number


def not_ours() -> InvalidInput:
    """The error for a `page_token` that cannot be one of ours."""
    return InvalidInput(
        "This page_token is not one that we gave; start again without it.", field="page_token"
    )
