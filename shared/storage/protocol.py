"""What a store promises, whatever it is made of."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Protocol

PIECE = 1 << 20
"""Bytes of an object that are held at once, where it is read or written in pieces."""


@dataclass(frozen=True)
class Listed:
    key: str
    changed_at: datetime


@dataclass(frozen=True)
class UploadLink:
    """Where and how a client puts one object, for a while."""

    url: str
    headers: dict[str, str]
    """All of them are signed: the store takes these bytes and no others."""


class Storage(Protocol):
    """Raises StorageUnavailable where the store is away, full or refuses us."""

    def put(self, key: str, body: bytes | BinaryIO, media_type: str) -> None:
        """Store the object, whole or not at all. An old one under the key is replaced.

        A store on another machine gets its SHA-256, to refuse what was damaged on the way.
        """

    def get(self, key: str) -> bytes:
        """The object's bytes. Raises NotFound."""

    def stream(self, key: str) -> Iterator[bytes]:
        """The object's bytes in pieces of at most 1 MiB. Raises NotFound before the first."""

    def start_of(self, key: str, length: int) -> tuple[bytes, int]:
        """The first bytes of the object, at most `length`, and its size. Raises NotFound."""

    def exists(self, key: str) -> bool: ...

    def listed(self, prefix: str) -> Iterator[Listed]:
        """All objects under a prefix that ends with a slash, and what was begun and left there."""

    def delete(self, key: str) -> None:
        """Remove the object; a missing one is no error."""

    def link(self, key: str, *, file_name: str) -> str | None:
        """A short-lived URL for a browser, or None where the service must stream itself."""

    def upload_link(
        self, key: str, *, media_type: str, size: int, sha256: str
    ) -> UploadLink | None:
        """Where a client can put exactly this object, or None where the service must take it."""

    def prepare(self) -> None:
        """Make the bucket or folder if it is missing."""

    def check(self) -> None:
        """Raise StorageUnavailable unless the store answers."""
