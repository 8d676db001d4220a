"""A folder on one machine."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from shared.errors import NotFound, StorageUnavailable
from shared.storage.protocol import PIECE, Listed, UploadLink

_MARK = ".defectscope"


class LocalStorage:
    """A folder on one machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    def _path(self, key: str) -> Path:
        path = (self._folder / key).resolve()
        if not path.is_relative_to(self._folder):
            raise NotFound("There is no such object.")
        return path

    def put(self, key: str, body: bytes | BinaryIO, media_type: str) -> None:
        path = self._path(key)
        self.check()
        try:
            self._make_folder(path.parent)
            with tempfile.NamedTemporaryFile(
                dir=path.parent, prefix=".incoming-", delete=False
            ) as file:
                try:
                    if isinstance(body, bytes):
                        file.write(body)
                    else:
                        while piece := body.read(PIECE):
                            file.write(piece)
                    file.flush()
                    os.fsync(file.fileno())
                    Path(file.name).replace(path)
                except BaseException:
                    Path(file.name).unlink(missing_ok=True)
                    raise
            _sync_folder(path.parent)
        except OSError as error:
            raise StorageUnavailable(
                f"The storage folder cannot be written ({error.strerror}); nothing was stored."
            ) from error

    def get(self, key: str) -> bytes:
        return b"".join(self.stream(key))

    def stream(self, key: str) -> Iterator[bytes]:
        try:
            file = self._path(key).open("rb")
        except FileNotFoundError as error:
            raise NotFound("There is no such object.") from error
        except OSError as error:
            raise StorageUnavailable("The storage folder cannot be read.") from error

        def pieces() -> Iterator[bytes]:
            with file:
                while piece := file.read(PIECE):
                    yield piece

        return pieces()

    def start_of(self, key: str, length: int) -> tuple[bytes, int]:
        try:
            with self._path(key).open("rb") as file:
                return file.read(length), os.fstat(file.fileno()).st_size
        except FileNotFoundError as error:
            raise NotFound("There is no such object.") from error
        except OSError as error:
            raise StorageUnavailable("The storage folder cannot be read.") from error

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def listed(self, prefix: str) -> Iterator[Listed]:
        self.check()
        try:
            for path in _files_under(self._path(prefix)):
                with suppress(FileNotFoundError):  # deleted meanwhile
                    changed_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                    yield Listed(path.relative_to(self._folder).as_posix(), changed_at)
        except OSError as error:
            raise StorageUnavailable("The storage folder cannot be read.") from error

    def delete(self, key: str) -> None:
        # Under a disk that is not mounted nothing is missing: it only seems so.
        self.check()
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            raise StorageUnavailable("The storage folder cannot be written.") from error

    def link(self, key: str, *, file_name: str) -> str | None:
        return None

    def upload_link(
        self, key: str, *, media_type: str, size: int, sha256: str
    ) -> UploadLink | None:
        return None

    def prepare(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / _MARK).touch()
        except OSError as error:
            raise StorageUnavailable(f"{self._folder} cannot be made.") from error

    def check(self) -> None:
        # Without the mark this may be the empty folder under a disk that is not mounted.
        if not (self._folder / _MARK).exists():
            raise StorageUnavailable(
                f"{self._folder} is not a storage folder (or not mounted); "
                "`defectscope migrate` makes one."
            )
        if not os.access(self._folder, os.R_OK | os.W_OK | os.X_OK):
            raise StorageUnavailable(f"{self._folder} cannot be read and written.")

    def _make_folder(self, folder: Path) -> None:
        """Make it and its parents so that a power cut forgets none of them."""
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _files_under(folder: Path) -> Iterator[Path]:
    """Unlike rglob, which takes a folder that it may not read for an empty one, raises OSError."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for inside, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(inside, name) for name in names)


def _sync_folder(folder: Path) -> None:
    """Without it a power cut may forget the rename that `put` has already promised."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
