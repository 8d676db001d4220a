"""Is the process alive, and can it accept photos? For probes and load balancers."""

from collections.abc import Callable
from typing import Literal

import redis
from fastapi import APIRouter, Response

from api.schemas import ReadinessOut
from shared import endpoints
from shared.db import check_database, transaction
from shared.errors import DefectScopeError
from shared.queue import check_queue
from shared.storage import storage
from shared.workers import engines_alive, is_deliverer_alive

router = APIRouter(tags=["operations"])


@router.get("/healthz", summary="The process answers")
async def healthz() -> dict[str, Literal["alive"]]:
    return {"status": "alive"}


@router.get(
    "/readyz",
    response_model=ReadinessOut,
    summary="Photos can be accepted",
    responses={503: {"model": ReadinessOut, "description": "Database or storage is away."}},
)
def readyz(response: Response) -> ReadinessOut:
    """Without Redis, or without a worker, photos are accepted and wait: degraded, not down.

    So do webhooks without a deliverer.
    """
    checks = {
        "database": _check(check_database),
        "storage": _check(storage().check),
        "queue": _check(check_queue),
    }
    engines: list[str] = []
    deliverer: Literal["ok", "away", "not_needed"] = "not_needed"
    if checks["database"] == "ok":
        with transaction() as session:
            engines = engines_alive(session)
            if is_deliverer_alive(session):
                deliverer = "ok"
            elif endpoints.is_any_active(session):
                deliverer = "away"
    if checks["database"] != "ok" or checks["storage"] != "ok":
        response.status_code = 503
        status = "not_ready"
    else:
        is_whole = checks["queue"] == "ok" and engines and deliverer != "away"
        status = "ready" if is_whole else "degraded"
    return ReadinessOut(
        status=status, checks=checks, workers=len(engines), engines=engines, deliverer=deliverer
    )


def _check(check: Callable[[], None]) -> str:
    try:
        check()
    except (DefectScopeError, redis.RedisError, OSError) as error:
        return f"away: {type(error).__name__}"
    return "ok"
