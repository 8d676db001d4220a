"""What the API takes and answers about keys, and about who changed what."""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from api.submission import Instant, Word
from shared.tables import ApiKey, AuditEntry, Scope

_MOST = 2**31 - 1


class KeyIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Word = Field(description="What it is for: the station, the MES, the person.")
    scopes: Annotated[frozenset[Scope], Field(min_length=1)] = Field(
        description="`admin` may do everything."
    )
    expires_at: Instant | None = Field(None, description="Null: never.")
    requests_per_second: int | None = Field(
        None, ge=1, le=1_000_000, description="Null: what the service allows every key."
    )
    max_queued: int | None = Field(
        None,
        ge=1,
        le=_MOST,
        description="Photos of this key that may wait to be judged. Null: as every key.",
    )


class KeyOut(BaseModel):
    id: str
    name: str
    scopes: list[Scope]
    requests_per_second: int | None
    max_queued: int | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    @classmethod
    def of(cls, row: ApiKey) -> Self:
        return cls(
            id=row.id,
            name=row.name,
            scopes=[Scope(scope) for scope in row.scopes],
            requests_per_second=row.requests_per_second,
            max_queued=row.max_queued,
            created_at=row.created_at,
            expires_at=row.expires_at,
            revoked_at=row.revoked_at,
        )


class NewKeyOut(KeyOut):
    key: str = Field(description="In full, this once: only its hash is kept.")


class KeysOut(BaseModel):
    keys: list[KeyOut]


class AuditEntryOut(BaseModel):
    at: datetime
    actor: str = Field(description="The key that did it, or `bootstrap`.")
    action: str = Field(description="`key.created`, `version.activated`, …")
    subject: str = Field(description="What was changed.")
    detail: dict[str, Any]

    @classmethod
    def of(cls, row: AuditEntry) -> Self:
        return cls(
            at=row.at, actor=row.actor, action=row.action, subject=row.subject, detail=row.detail
        )


class AuditPage(BaseModel):
    entries: list[AuditEntryOut]
    next_page_token: str = Field(description="Empty on the last page.")
