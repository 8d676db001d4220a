"""The only reader of the environment: every setting, with its unit and default.

Names in the environment are these in capitals after `DEFECTSCOPE_`, for
instance `DEFECTSCOPE_DATABASE_URL`. The table in the README is held against
this class by a test.
"""

from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.addresses import parse_networks
from shared.image_headers import MAX_PIXELS, MIN_SIDE


def url_of(host: str, port: int) -> str:
    """Where a server that listens on this address is asked."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="DEFECTSCOPE_",
        extra="ignore",
        frozen=True,
        # A variable that a compose file passes on empty is one that is not set.
        env_ignore_empty=True,
    )

    database_url: str = Field(
        "postgresql+psycopg2://defectscope:defectscope@127.0.0.1:5432/defectscope",
        description="PostgreSQL, as an SQLAlchemy URL",
    )
    redis_url: str = Field("redis://127.0.0.1:6379/0", description="Redis of the doorbells")
    storage_url: str = Field(
        "s3://defectscope",
        description="`s3://BUCKET`, or `file:///FOLDER` on a single machine",
    )
    s3_endpoint_url: str | None = Field(
        None, description="S3 endpoint as the service reaches it; empty for AWS"
    )
    s3_public_endpoint_url: str | None = Field(
        None, description="S3 endpoint as browsers reach it; empty when it is the same"
    )
    s3_region: str = Field("us-east-1", description="S3 region")
    s3_access_key_id: str | None = Field(
        None, description="S3 key; empty for the usual AWS credential chain"
    )
    s3_secret_access_key: SecretStr | None = Field(None, description="S3 secret")
    link_seconds: int = Field(300, ge=10, description="Life of a presigned storage link, seconds")

    host: str = Field("127.0.0.1", description="Address that the API listens on")
    port: int = Field(8000, ge=0, le=65535, description="Port that the API listens on")
    public_url: str | None = Field(
        None,
        description="Base of the links in results and webhooks; empty for the address of the "
        "request, and of the API in webhooks",
    )
    admin_key: SecretStr | None = Field(
        None, description="Admin key that `defectscope migrate` makes valid: `ds_<id>_<secret>`"
    )
    max_queued: int = Field(
        100_000, ge=1, description="Photos that may wait to be judged; beyond them 429"
    )
    max_queued_per_key: int = Field(
        50_000, ge=1, description="Of them, photos of one key that names no number of its own"
    )
    requests_per_second: int = Field(
        500,
        ge=1,
        description="Requests of one key that names no rate of its own; beyond them 429",
    )
    max_receiving_bytes: int = Field(
        256 * 1024 * 1024,
        gt=0,
        description="Bytes of photos that one API process receives at once; beyond them 429",
    )
    api_processes: int = Field(1, ge=1, description="API processes behind one port")
    max_upload_bytes: int = Field(10 * 1024 * 1024, gt=0, description="Largest photo, bytes")
    # The worker decodes within the same bounds, so these can only be made stricter.
    min_side_px: int = Field(
        MIN_SIDE,
        ge=MIN_SIDE,
        description="Smallest width or height, pixels; can only be raised",
    )
    max_pixels: int = Field(
        MAX_PIXELS,
        gt=0,
        le=MAX_PIXELS,
        description="Largest width x height, pixels; can only be lowered",
    )
    max_wait_seconds: float = Field(
        60, ge=0, description="Longest `Prefer: wait=N` or `?wait=N` that is honoured, seconds"
    )
    predict_wait_seconds: float = Field(
        30, ge=0, description="How long `/predict` waits for its verdict, seconds"
    )

    batch_size: int = Field(
        0, ge=0, description="Most photos that one batch takes; 0 for what suits the engine"
    )
    slots: int = Field(3, ge=1, description="Batches in flight in one worker process")
    lease_seconds: float = Field(30, gt=0, description="Lease of a claimed photo, seconds")
    max_attempts: int = Field(3, ge=1, description="Attempts before an inspection fails")
    max_batch_seconds: float = Field(
        300, gt=0, description="A batch that takes longer loses its lease, seconds"
    )
    upkeep_seconds: float = Field(
        2,
        gt=0,
        description="Pause between rounds in which a worker sweeps, looks for photos whose bell "
        "nobody heard, and for new models, seconds",
    )
    engine: str = Field(
        "auto",
        description="`auto` for the fastest that agrees with the reference, or `cuda-bf16`, "
        "`cuda-fp32`, `openvino-int8`, `openvino-bf16`, `openvino-fp32`, `torch-cpu`",
    )
    model_cache: Path = Field(
        Path("~/.cache/defectscope").expanduser(),
        description="Folder where workers keep model files, by digest",
    )

    review_lease_seconds: float = Field(
        120,
        gt=0,
        description="How long a part is a reviewer's alone after the last sign of activity, "
        "seconds",
    )

    webhook_allowed_cidrs: str = Field(
        "",
        description="Private networks that webhooks may reach, also by plain http: CIDRs, "
        "separated by commas",
    )
    webhook_log_days: int = Field(
        30, ge=1, description="How long finished deliveries and their attempts are kept, days"
    )

    url: str = Field(
        "http://127.0.0.1:8000",
        description="Service that `submit`, `publish`, `export`, `products` and `keys` talk to",
    )
    api_key: SecretStr | None = Field(None, description="Key that these commands use")

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Log level")
    log_format: Literal["console", "json"] = Field(
        "json", description="`console` for people, `json` for machines"
    )

    @field_validator("webhook_allowed_cidrs")
    @classmethod
    def _are_networks(cls, text: str) -> str:
        parse_networks(text)
        return text

    @property
    def base_url(self) -> str:
        """Base of links where no request tells one."""
        return (self.public_url or url_of(self.host, self.port)).rstrip("/")

    @property
    def review_lease(self) -> timedelta:
        return timedelta(seconds=self.review_lease_seconds)

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.lease_seconds)


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()
