"""Thresholds of a product over HTTP: what they are, what others would do, and changing them."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Response

from api.auth import FIRST, Admin, Looker, Reader
from api.bodies import described, reading
from api.problems import responses
from api.product_schemas import ProductOut
from api.routes.products import Name
from api.submission import Instant
from api.threshold_schemas import AuditIn, ThresholdsOut, WhatIfAnswer, WhatIfOut
from shared import products, thresholds, what_if
from shared.db import transaction
from shared.errors import PreconditionRequired
from shared.manifest import Thresholds
from shared.tables import ModelVersion, Product

router = APIRouter(prefix="/v1/products/{name}", tags=["products"], dependencies=[FIRST])

_ETAG = {"ETag": {"schema": {"type": "string"}, "description": "For `If-Match`."}}


@router.get(
    "/thresholds",
    response_model=ThresholdsOut,
    summary="The thresholds in force",
    responses={200: {"headers": _ETAG}, **responses(401, 403, 404, 409, 429, 503)},
)
def read(name: Name, caller: Reader, response: Response) -> ThresholdsOut:
    with transaction() as session:
        product = products.get_product(session, organisation_id=caller.organisation_id, name=name)
        return _out(product, thresholds.active_of(session, product), response)


@router.put(
    "/thresholds",
    response_model=ThresholdsOut,
    summary="Judge photos from now on by these",
    responses={
        200: {"headers": _ETAG},
        **responses(400, 401, 403, 404, 409, 412, 413, 422, 428, 429, 503),
    },
    openapi_extra=described(Thresholds),
)
def change(
    name: Name,
    caller: Admin,
    response: Response,
    asked: Annotated[Thresholds, Depends(reading(Thresholds))],
    if_match: Annotated[
        str | None, Header(description="`ETag` of the thresholds that you looked at.")
    ] = None,
) -> ThresholdsOut:
    """They make a model version of their own, with the same files: old results keep theirs, and a
    rollback takes the change back. 412 if somebody changed them meanwhile.
    """
    with transaction() as session:
        products.get_product(session, organisation_id=caller.organisation_id, name=name)
        if if_match is None:
            raise PreconditionRequired(
                "Send the ETag of the thresholds that you looked at as If-Match, so that nobody's "
                "change is overwritten unseen."
            )
        product = thresholds.change(
            session,
            organisation_id=caller.organisation_id,
            name=name,
            thresholds=asked,
            if_match=if_match.strip().removeprefix("W/").strip('"'),
            actor=caller.key_id,
        )
        return _out(product, thresholds.active_of(session, product), response)


@router.get(
    "/what-if",
    response_model=WhatIfAnswer,
    summary="What other thresholds would do",
    responses=responses(401, 403, 404, 409, 422, 429, 503),
)
def ask(
    name: Name,
    caller: Looker,
    defect_probability: Annotated[float | None, Query(ge=0, le=1)] = None,
    near_threshold_low: Annotated[float | None, Query(ge=0, le=1)] = None,
    near_threshold_high: Annotated[float | None, Query(ge=0, le=1)] = None,
    anomaly_score: Annotated[float | None, Query(allow_inf_nan=False)] = None,
    domain_distance: Annotated[float | None, Query(gt=0, allow_inf_nan=False)] = None,
    since: Annotated[Instant | None, Query(description="Accepted at or after.")] = None,
) -> WhatIfAnswer:
    """Escapes, false alarms and review load, from photos that were judged and parts that people
    decided. What is left out stays as it is.
    """
    given = {
        "defect_probability": defect_probability,
        "near_threshold_low": near_threshold_low,
        "near_threshold_high": near_threshold_high,
        "anomaly_score": anomaly_score,
        "domain_distance": domain_distance,
    }
    with transaction() as session:
        product = products.get_product(session, organisation_id=caller.organisation_id, name=name)
        active = thresholds.active_of(session, product)
        judged = what_if.read_judged(session, product, active, since=since)
    present = Thresholds.model_validate(active.thresholds)
    proposed = present.model_copy(
        update={name: value for name, value in given.items() if value is not None}
    )
    thresholds.check(proposed)
    return _answer(judged, present, proposed, since)


@router.put(
    "/audit",
    response_model=ProductOut,
    summary="Have people look at a random share of passed parts",
    responses=responses(400, 401, 403, 404, 413, 422, 429, 503),
    openapi_extra=described(AuditIn),
)
def set_audit_share(
    name: Name, caller: Admin, asked: Annotated[AuditIn, Depends(reading(AuditIn))]
) -> ProductOut:
    """They are held as `random_audit`. What people find among them tells how many defects escape
    among all that pass.
    """
    with transaction() as session:
        return ProductOut.of(
            products.set_audit_share(
                session,
                organisation_id=caller.organisation_id,
                name=name,
                share=asked.share,
                actor=caller.key_id,
            )
        )


def _answer(
    judged: list[what_if.Judged],
    present: Thresholds,
    proposed: Thresholds,
    since: datetime | None,
) -> WhatIfAnswer:
    return WhatIfAnswer(
        thresholds=proposed,
        present=WhatIfOut.model_validate(what_if.ask(judged, present)),
        proposed=WhatIfOut.model_validate(what_if.ask(judged, proposed)),
        since=since,
    )


def _out(product: Product, active: ModelVersion, response: Response) -> ThresholdsOut:
    response.headers["ETag"] = f'"{active.digest}"'
    return ThresholdsOut(
        product=product.name,
        version=active.version,
        digest=active.digest,
        thresholds=Thresholds.model_validate(active.thresholds),
    )
