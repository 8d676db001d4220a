"""Where the bytes live: originals, maps and model files, by key.

Two stores that keep the same promises: what `put` returned from is there after
a power cut, a reader never sees half an object, and a missing object is told
apart from a store that is away.
"""

import hashlib
import os
import tempfile
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from shared.errors import NotFound, StorageUnavailable
from shared.settings import Settings, get_settings

_SUFFIX = {"image/jpeg": "jpg", "image/png": "png"}
_CHUNK = 1 << 20
_MARK = ".defectscope"


def image_key(organisation: str, inspection: str, media_type: str, at: datetime) -> str:
    """Key of an original: by day, so that a person can find it."""
    return f"images/{organisation}/{at:%Y/%m/%d}/{inspection}.{_SUFFIX[media_type]}"


def map_key(original: str, attempt: str, kind: str) -> str:
    """Key of a map made of `original` (kind: `overlay` or `anomaly-map`).

    The attempt is in the key, so that a worker that lost its lease cannot
    overwrite the maps of the one that did the work.
    """
    stem = original.removeprefix("images/").rsplit(".", 1)[0]
    return f"maps/{stem}-{attempt[:8]}-{kind}.jpg"


def artifact_key(sha256: str) -> str:
    """Key of a model file, by its digest (`sha256:…`)."""
    return f"artifacts/{sha256.removeprefix('sha256:')}"


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

    def put(
        self, key: str, body: bytes | BinaryIO, media_type: str, *, sha256: str | None = None
    ) -> None:
        """Store the object, whole or not at all. An old one under the key is replaced.

        `sha256`: of the body in hexadecimal, where it is known already. A store on another machine
        gets it, to refuse what was damaged on the way.
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


class LocalStorage:
    """A folder on one machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    def _path(self, key: str) -> Path:
        path = (self._folder / key).resolve()
        if not path.is_relative_to(self._folder):
            raise NotFound("There is no such object.")
        return path

    def put(
        self, key: str, body: bytes | BinaryIO, media_type: str, *, sha256: str | None = None
    ) -> None:
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
                        while piece := body.read(_CHUNK):
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
                while piece := file.read(_CHUNK):
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


class S3Storage:
    """Any S3: AWS, SeaweedFS, Ceph. Made before threads start; then shared by all of them."""

    def __init__(self, settings: Settings, bucket: str) -> None:
        self._bucket = bucket
        self._region = settings.s3_region
        self._link_seconds = settings.link_seconds
        self._client = _client(settings, settings.s3_endpoint_url)
        # A link is signed for the host name in it, and browsers may know another one than we do.
        public = settings.s3_public_endpoint_url
        self._public = _client(settings, public) if public else self._client

    def put(
        self, key: str, body: bytes | BinaryIO, media_type: str, *, sha256: str | None = None
    ) -> None:
        with _s3_errors():
            self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=body,
                ContentType=media_type,
                ChecksumSHA256=_checksum(sha256 or _sha256(body)),
            )

    def get(self, key: str) -> bytes:
        with _s3_errors():
            answer = self._client.get_object(Bucket=self._bucket, Key=key)
            body: bytes = answer["Body"].read()
            return body

    def stream(self, key: str) -> Iterator[bytes]:
        with _s3_errors():
            body = self._client.get_object(Bucket=self._bucket, Key=key)["Body"]

        def pieces() -> Iterator[bytes]:
            with _s3_errors():
                yield from body.iter_chunks(_CHUNK)

        return pieces()

    def start_of(self, key: str, length: int) -> tuple[bytes, int]:
        with _s3_errors():
            answer = self._client.get_object(
                Bucket=self._bucket, Key=key, Range=f"bytes=0-{length - 1}"
            )
            start: bytes = answer["Body"].read()
            # "bytes 0-1023/146515"; without it the whole object came.
            size = answer.get("ContentRange", f"/{len(start)}").rsplit("/", 1)[1]
        return start[:length], int(size)

    def exists(self, key: str) -> bool:
        try:
            with _s3_errors():
                self._client.head_object(Bucket=self._bucket, Key=key)
        except NotFound:
            return False
        return True

    def listed(self, prefix: str) -> Iterator[Listed]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=prefix
        )
        with _s3_errors():
            for page in pages:
                for entry in page.get("Contents", ()):
                    yield Listed(entry["Key"], entry["LastModified"])

    def delete(self, key: str) -> None:
        with _s3_errors():
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def link(self, key: str, *, file_name: str) -> str | None:
        link: str = self._public.generate_presigned_url(
            "get_object",
            Params={
                "Bucket": self._bucket,
                "Key": key,
                "ResponseContentDisposition": f'inline; filename="{file_name}"',
            },
            ExpiresIn=self._link_seconds,
        )
        return link

    def upload_link(
        self, key: str, *, media_type: str, size: int, sha256: str
    ) -> UploadLink | None:
        checksum = _checksum(sha256)
        url: str = self._public.generate_presigned_url(
            "put_object",
            Params={
                "Bucket": self._bucket,
                "Key": key,
                "ContentType": media_type,
                "ContentLength": size,
                "ChecksumSHA256": checksum,
            },
            ExpiresIn=self._link_seconds,
        )
        return UploadLink(url, {"Content-Type": media_type, "x-amz-checksum-sha256": checksum})

    def prepare(self) -> None:
        try:
            with _s3_errors():
                self._client.head_bucket(Bucket=self._bucket)
        except NotFound:
            where = (
                {}
                if self._region == "us-east-1"
                else {"CreateBucketConfiguration": {"LocationConstraint": self._region}}
            )
            with _s3_errors():
                self._client.create_bucket(Bucket=self._bucket, **where)

    def check(self) -> None:
        try:
            with _s3_errors():
                self._client.head_bucket(Bucket=self._bucket)
        except NotFound as error:
            raise StorageUnavailable(
                f"The bucket {self._bucket} is missing; `defectscope migrate` makes it."
            ) from error


def _sha256(body: bytes | BinaryIO) -> str:
    if isinstance(body, bytes):
        return hashlib.sha256(body).hexdigest()
    start = body.tell()
    digest = hashlib.file_digest(body, "sha256").hexdigest()  # type: ignore[arg-type]
    body.seek(start)
    return digest


def _checksum(sha256: str) -> str:
    """As S3 wants it."""
    return b64encode(bytes.fromhex(sha256)).decode()


def _client(settings: Settings, endpoint: str | None) -> Any:
    secret = settings.s3_secret_access_key
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key_id,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        config=Config(
            # Self-hosted stores have no DNS name per bucket, and some refuse checksums behind a
            # body. `put` sends one before it, so the signature need not have another.
            s3={"addressing_style": "path", "payload_signing_enabled": False},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            signature_version="s3v4",
            connect_timeout=3,
            read_timeout=10,
            retries={"mode": "standard", "total_max_attempts": 2},
            max_pool_connections=32,
        ),
    )


@contextmanager
def _s3_errors() -> Iterator[None]:
    """Turn botocore's errors into ours: missing, or away."""
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        # A missing bucket is a fault of the store, not a missing photo.
        if code in {"404", "NoSuchKey", "NotFound"}:
            raise NotFound("There is no such object.") from error
        raise StorageUnavailable(f"The object storage refused the request ({code}).") from error
    except (BotoCoreError, OSError) as error:
        raise StorageUnavailable("The object storage cannot be reached.") from error


def make_storage(settings: Settings) -> Storage:
    """The store that `storage_url` names. Raises ValueError for any other scheme."""
    url = urlsplit(settings.storage_url)
    if url.scheme == "file" and url.path:
        return LocalStorage(Path(unquote(url.path)))
    if url.scheme == "s3" and url.netloc:
        return S3Storage(settings, url.netloc)
    raise ValueError(f"storage_url must be s3://BUCKET or file:///FOLDER, not {url.geturl()!r}")


_lock = threading.Lock()


@lru_cache(maxsize=1)
def _process_storage() -> Storage:
    return make_storage(get_settings())


def storage() -> Storage:
    """The store of this process, made once: making boto3 clients in two threads is not safe."""
    with _lock:
        return _process_storage()
