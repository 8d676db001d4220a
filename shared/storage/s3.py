"""Any S3: AWS, SeaweedFS, Ceph.

What every photo makes, a `put` of bytes and a `get`, goes through obstore, which costs a third of
the processor time that boto3 takes for the same. Everything else is boto3's.
"""

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

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

_CONNECT_SECONDS = 3
_ANSWER_SECONDS = 20
"""Until obstore's answer begins, the sending of a photo included, and between its pieces."""
_WHOLE_SECONDS = 60
"""For all of an answer of obstore's."""
_READ_SECONDS = 10
"""For what boto3 waits for."""
_CREDENTIALS_LIFE = timedelta(minutes=5)
"""botocore renews what expires ten minutes ahead, when it is asked."""
# obstore has no other words for what an answer was.
_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d{3} [A-Za-z ]+)")


class S3Storage:
    """Made before threads start; then shared by all of them."""

    def __init__(self, settings: Settings, bucket: str) -> None:
        """Raises ValueError where there are no credentials."""
        self._bucket = bucket
        self._region = settings.s3_region
        self._link_seconds = settings.link_seconds
        core = botocore.session.get_session()
        # Whoever trusts an authority of their own tells boto3 so; both have to trust the same.
        authority = core.get_config_variable("ca_bundle")
        session = _session(settings, core)
        self._client = _client(session, settings.s3_endpoint_url, authority)
        self._photos = _photo_store(
            bucket, session, self._client.meta.endpoint_url, authority=authority
        )
        # A link is signed for the host name in it, and browsers may know another one than we do.
        public = settings.s3_public_endpoint_url
        self._public = _client(session, public, authority) if public else self._client

    def put(self, key: str, body: bytes | BinaryIO, media_type: str) -> None:
        try:
            if isinstance(body, bytes):
                self._put_photo(key, body, media_type)
            else:
                self._put_file(key, body, media_type)
        except NotFound as error:
            self.check()
            raise _refused("NotFound") from error

    def _put_photo(self, key: str, photo: bytes, media_type: str) -> None:
        with _obstore_errors():
            obstore.put(
                self._photos,
                key,
                photo,
                attributes={"Content-Type": media_type},
                use_multipart=False,
            )

    def _put_file(self, key: str, file: BinaryIO, media_type: str) -> None:
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        file.seek(0)
        with _boto3_errors():
            self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=file,
                ContentType=media_type,
                ChecksumSHA256=_checksum(digest),
            )

    def get(self, key: str) -> bytes:
        try:
            with _obstore_errors():
                return obstore.get(self._photos, key).bytes().to_bytes()
        except NotFound:
            # A missing bucket is a fault of the store, not a missing photo, and looks the same.
            self.check()
            raise

    def stream(self, key: str) -> Iterator[bytes]:
        with _boto3_errors():
            body = self._client.get_object(Bucket=self._bucket, Key=key)["Body"]

        def pieces() -> Iterator[bytes]:
            with _boto3_errors():
                yield from body.iter_chunks(PIECE)

        return pieces()

    def start_of(self, key: str, length: int) -> tuple[bytes, int]:
        with _boto3_errors():
            answer = self._client.get_object(
                Bucket=self._bucket, Key=key, Range=f"bytes=0-{length - 1}"
            )
            start: bytes = answer["Body"].read()
            # "bytes 0-1023/146515"; without it the whole object came.
            size = answer.get("ContentRange", f"/{len(start)}").rsplit("/", 1)[1]
        return start[:length], int(size)

    def exists(self, key: str) -> bool:
        try:
            with _boto3_errors():
                self._client.head_object(Bucket=self._bucket, Key=key)
        except NotFound:
            # A missing bucket looks the same.
            self.check()
            return False
        return True

    def listed(self, prefix: str) -> Iterator[Listed]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=prefix
        )
        with _boto3_errors():
            for page in pages:
                for entry in page.get("Contents", ()):
                    yield Listed(entry["Key"], entry["LastModified"])

    def delete(self, key: str) -> None:
        with _boto3_errors():
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
            with _boto3_errors():
                self._client.head_bucket(Bucket=self._bucket)
        except NotFound:
            where = (
                {}
                if self._region == "us-east-1"
                else {"CreateBucketConfiguration": {"LocationConstraint": self._region}}
            )
            with _boto3_errors():
                self._client.create_bucket(Bucket=self._bucket, **where)

    def check(self) -> None:
        try:
            with _boto3_errors():
                self._client.head_bucket(Bucket=self._bucket)
        except NotFound as error:
            raise StorageUnavailable(
                f"The bucket {self._bucket} is missing; `defectscope migrate` makes it."
            ) from error


def _refused(why: str) -> StorageUnavailable:
    return StorageUnavailable(f"The object storage refused the request ({why}).")


def _away() -> StorageUnavailable:
    return StorageUnavailable("The object storage cannot be reached.")


def _checksum(sha256: str) -> str:
    """As S3 wants it."""
    return b64encode(bytes.fromhex(sha256)).decode()


def _session(settings: Settings, core: botocore.session.Session) -> boto3.session.Session:
    secret = settings.s3_secret_access_key
    session = boto3.session.Session(
        aws_access_key_id=settings.s3_access_key_id,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        region_name=settings.s3_region,
        botocore_session=core,
    )
    if session.get_credentials() is None:
        raise ValueError("there are no credentials for S3: set s3_access_key_id and its secret")
    return session


def _photo_store(
    bucket: str, session: boto3.session.Session, endpoint: str, *, authority: str | None
) -> S3Store:
    return S3Store(
        bucket,
        endpoint=endpoint,
        region=session.region_name,
        credential_provider=Boto3CredentialProvider(session, ttl=_CREDENTIALS_LIFE),
        # Self-hosted stores have no DNS name per bucket.
        virtual_hosted_style_request=False,
        # Before the body: some stores refuse checksums behind it.
        checksum_algorithm="SHA256",
        # What the environment says of these is meant for others.
        skip_signature=False,
        unsigned_payload=False,
        s3_express=False,
        client_options={
            "allow_http": True,
            "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
            "read_timeout": timedelta(seconds=_ANSWER_SECONDS),
            "timeout": timedelta(seconds=_WHOLE_SECONDS),
            **({"root_certificate": Path(authority).read_bytes()} if authority else {}),
        },
        retry_config={"max_retries": 1, "retry_timeout": timedelta(seconds=_ANSWER_SECONDS)},
    )


def _client(session: boto3.session.Session, endpoint: str | None, authority: str | None) -> Any:
    return session.client(
        "s3",
        endpoint_url=endpoint,
        verify=authority or True,
        config=Config(
            # A file is told by its checksum, so the signature need not have another.
            s3={"addressing_style": "path", "payload_signing_enabled": False},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            signature_version="s3v4",
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": 2},
            max_pool_connections=32,
        ),
    )


@contextmanager
def _obstore_errors() -> Iterator[None]:
    """Turn obstore's errors into ours: missing, or away."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound("There is no such object.") from error
    except (BaseError, OSError) as error:
        told = str(error)
        if code := _CODE.search(told) or _STATUS.search(told):
            raise _refused(code[1]) from error
        if "configured region" in told:
            raise _refused("the bucket is in another region") from error
        raise _away() from error


@contextmanager
def _boto3_errors() -> Iterator[None]:
    """Turn botocore's errors into ours: missing, or away."""
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in {"404", "NoSuchKey", "NotFound"}:
            raise NotFound("There is no such object.") from error
        raise _refused(code) from error
    except (BotoCoreError, OSError) as error:
        raise _away() from error
