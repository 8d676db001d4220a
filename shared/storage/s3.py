"""Any S3: AWS, SeaweedFS, Ceph.

Objects move through obstore, which costs a third of the processor time that boto3 takes for the
same. boto3 does what obstore has no call for: links with signed headers, the bucket itself, and a
file that is too large for memory, in one request.
"""

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import boto3
import botocore.session
import obstore
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import BaseError
from obstore.store import S3Store

from shared.errors import NotFound, StorageUnavailable
from shared.settings import Settings
from shared.storage.protocol import PIECE, Listed, UploadLink

if TYPE_CHECKING:
    from obstore.store import S3Config

_CONNECT_SECONDS = 3
_ANSWER_SECONDS = 20
"""Until an answer begins, the sending of a photo included, and between its pieces."""
_WHOLE_SECONDS = 300
"""For all of an object that comes in pieces."""
_READ_SECONDS = 10
"""For what boto3 waits for."""
_CREDENTIALS_LIFE = timedelta(minutes=5)
"""botocore renews what expires ten minutes ahead, when it is asked."""
_STATUS = re.compile(r"status code: (\d{3} [A-Za-z ]+)")
"""obstore has no other word for what an answer was."""


class S3Storage:
    """Made before threads start; then shared by all of them."""

    def __init__(self, settings: Settings, bucket: str) -> None:
        """Raises ValueError where there are no credentials."""
        self._bucket = bucket
        self._region = settings.s3_region
        self._link_seconds = settings.link_seconds
        session = _session(settings)
        self._objects = _object_store(settings, bucket, session)
        self._client = _client(session, settings.s3_endpoint_url)
        # A link is signed for the host name in it, and browsers may know another one than we do.
        public = settings.s3_public_endpoint_url
        self._public = _client(session, public) if public else self._client

    def put(self, key: str, body: bytes | BinaryIO, media_type: str) -> None:
        if not isinstance(body, bytes):
            self._put_file(key, body, media_type)
            return
        with self._errors():
            obstore.put(
                self._objects,
                key,
                body,
                attributes={"Content-Type": media_type},
                use_multipart=False,
            )

    def _put_file(self, key: str, file: BinaryIO, media_type: str) -> None:
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        file.seek(0)
        with _client_errors():
            self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=file,
                ContentType=media_type,
                ChecksumSHA256=_checksum(digest),
            )

    def get(self, key: str) -> bytes:
        with self._errors():
            return obstore.get(self._objects, key).bytes().to_bytes()

    def stream(self, key: str) -> Iterator[bytes]:
        with self._errors():
            answer = obstore.get(self._objects, key)

        def pieces() -> Iterator[bytes]:
            with self._errors():
                for run in answer.stream(min_chunk_size=PIECE // 2):
                    for start in range(0, len(run), PIECE):
                        yield bytes(memoryview(run)[start : start + PIECE])

        return pieces()

    def start_of(self, key: str, length: int) -> tuple[bytes, int]:
        with self._errors():
            answer = obstore.get(self._objects, key, options={"range": (0, length)})
            return answer.bytes().to_bytes(), answer.meta["size"]

    def exists(self, key: str) -> bool:
        try:
            with self._errors():
                obstore.head(self._objects, key)
        except NotFound:
            return False
        return True

    def listed(self, prefix: str) -> Iterator[Listed]:
        with self._errors():
            for page in obstore.list(self._objects, prefix, chunk_size=1000):
                for entry in page:
                    yield Listed(entry["path"], entry["last_modified"])

    def delete(self, key: str) -> None:
        with self._errors():
            obstore.delete(self._objects, key)

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
            with _client_errors():
                self._client.head_bucket(Bucket=self._bucket)
        except NotFound:
            where = (
                {}
                if self._region == "us-east-1"
                else {"CreateBucketConfiguration": {"LocationConstraint": self._region}}
            )
            with _client_errors():
                self._client.create_bucket(Bucket=self._bucket, **where)

    def check(self) -> None:
        try:
            with _client_errors():
                self._client.head_bucket(Bucket=self._bucket)
        except NotFound as error:
            raise StorageUnavailable(
                f"The bucket {self._bucket} is missing; `defectscope migrate` makes it."
            ) from error

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn obstore's errors into ours: missing, or away."""
        try:
            yield
        except FileNotFoundError as error:
            # A missing bucket is a fault of the store, not a missing photo, and looks the same.
            self.check()
            raise NotFound("There is no such object.") from error
        except (BaseError, OSError) as error:
            if status := _STATUS.search(str(error)):
                raise _refused(status[1]) from error
            if "configured region" in str(error):
                raise _refused("the bucket is in another region") from error
            raise _away() from error


def _refused(why: str) -> StorageUnavailable:
    return StorageUnavailable(f"The object storage refused the request ({why}).")


def _away() -> StorageUnavailable:
    return StorageUnavailable("The object storage cannot be reached.")


def _checksum(sha256: str) -> str:
    """As S3 wants it."""
    return b64encode(bytes.fromhex(sha256)).decode()


def _session(settings: Settings) -> boto3.session.Session:
    secret = settings.s3_secret_access_key
    session = boto3.session.Session(
        aws_access_key_id=settings.s3_access_key_id,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        region_name=settings.s3_region,
        botocore_session=botocore.session.get_session(),
    )
    if session.get_credentials() is None:
        raise ValueError("there are no credentials for S3: set s3_access_key_id and its secret")
    return session


def _object_store(settings: Settings, bucket: str, session: boto3.session.Session) -> S3Store:
    # Whoever trusts an authority of their own tells boto3 so; one place has to be enough.
    authority = botocore.session.get_session().get_config_variable("ca_bundle")
    endpoint: S3Config = {}
    if settings.s3_endpoint_url:  # else the region's at AWS
        endpoint["endpoint"] = settings.s3_endpoint_url
    return S3Store(
        bucket,
        config=endpoint,
        region=settings.s3_region,
        credential_provider=Boto3CredentialProvider(session, ttl=_CREDENTIALS_LIFE),
        # Self-hosted stores have no DNS name per bucket.
        virtual_hosted_style_request=False,
        # Before the body: some stores refuse checksums behind it.
        checksum_algorithm="SHA256",
        # Not all stores can delete many objects at once, and nobody asks for it.
        disable_bulk_delete=True,
        client_options={
            "allow_http": True,
            "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
            "read_timeout": timedelta(seconds=_ANSWER_SECONDS),
            "timeout": timedelta(seconds=_WHOLE_SECONDS),
            **({"root_certificate": Path(authority).read_bytes()} if authority else {}),
        },
        retry_config={"max_retries": 1, "retry_timeout": timedelta(seconds=_ANSWER_SECONDS)},
    )


def _client(session: boto3.session.Session, endpoint: str | None) -> Any:
    return session.client(
        "s3",
        endpoint_url=endpoint,
        config=Config(
            # A file is told by its checksum, so the signature need not have another.
            s3={"addressing_style": "path", "payload_signing_enabled": False},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            signature_version="s3v4",
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": 2},
        ),
    )


@contextmanager
def _client_errors() -> Iterator[None]:
    """Turn botocore's errors into ours: missing, or away."""
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        # A missing bucket is a fault of the store, not a missing photo.
        if code in {"404", "NoSuchKey", "NotFound"}:
            raise NotFound("There is no such object.") from error
        raise _refused(code) from error
    except (BotoCoreError, OSError) as error:
        raise _away() from error
