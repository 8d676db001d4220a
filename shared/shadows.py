"""Shadow versions: judge the photos of the active one, and nobody is told what they say.

A photo gets the shadow that its product has when a worker claims it, not when it
was accepted: what a client sees does not depend on it, and so a shadow that is
stopped stops at once, however long the queue is. What it said is written with the
verdict, in one transaction and under the same lease: once a photo, or not at all.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from sqlalchemy import ColumnElement, and_, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, joinedload

from shared import audit
from shared.audit import Action
from shared.errors import Conflict, NotFound
from shared.inspection_queries import make_token, read_token
from shared.products import find_version, get_product, lock_product
from shared.tables import ModelVersion, Product, ShadowResult
from shared.verdicts import Disposition, Outcome, Scores, Verdict


@dataclass(frozen=True)
class ShadowJudgement:
    """What a shadow version said of one photo, or why it said nothing."""

    model_version_id: str
    scores: Scores | None
    outcome: Outcome | None
    error_code: str | None

    @classmethod
    def judged(cls, model_version_id: str, scores: Scores, outcome: Outcome) -> Self:
        return cls(model_version_id, scores, outcome, None)

    @classmethod
    def failed(cls, model_version_id: str, error_code: str) -> Self:
        return cls(model_version_id, None, None, error_code)


@dataclass(frozen=True)
class ShadowSummary:
    """How the present shadow compares with the present active version since it was started."""

    product: Product
    shadow: ModelVersion
    active: ModelVersion
    since: datetime
    agreements: int
    """Photos with the same verdict and the same disposition."""
    disagreements: int
    verdicts: Mapping[tuple[Verdict, Verdict], int]
    """Photos by (verdict of the active version, verdict of the shadow)."""
    dispositions: Mapping[tuple[Disposition, Disposition], int]
    failures: Mapping[str, int]
    """Photos that the shadow could not judge, by error code."""


def start(
    session: Session, *, organisation_id: str, name: str, version: int, actor: str
) -> Product:
    """Judge photos with this version too from now on; another shadow ends.

    Starting the shadow that runs already changes nothing. Raises NotFound, and
    Conflict for the active version or where none is active.
    """
    product = lock_product(session, organisation_id=organisation_id, name=name)
    chosen = find_version(session, product, version)
    if product.active_version_id is None:
        raise Conflict(
            f"Product {name!r} has no active version that a shadow could be compared with; "
            "activate one first.",
            code="no_active_version",
        )
    if product.active_version_id == chosen.id:
        raise Conflict(
            f"{name}@{version} is the active version; a shadow is another version beside it.",
            code="already_active",
        )
    if product.shadow_version_id != chosen.id:
        # Asked for first: a query in between would flush a shadow without its time.
        product.shadow_since = session.scalar(select(func.clock_timestamp()))
        product.shadow_version_id = chosen.id
        product.shadow_version = chosen
        audit.note(
            session,
            organisation_id=organisation_id,
            actor=actor,
            action=Action.SHADOW_STARTED,
            subject=f"{name}@{version}",
        )
    return product


def stop(session: Session, *, organisation_id: str, name: str, actor: str) -> None:
    """End the shadow, if there is one; what it said stays in the database. Raises NotFound."""
    product = lock_product(session, organisation_id=organisation_id, name=name)
    if product.shadow_version is not None:
        audit.note(
            session,
            organisation_id=organisation_id,
            actor=actor,
            action=Action.SHADOW_STOPPED,
            subject=f"{name}@{product.shadow_version.version}",
        )
    product.shadow_version_id = product.shadow_since = None
    product.shadow_version = None


def keep_shadow_results(
    session: Session, results: Iterable[tuple[str, str, Outcome, ShadowJudgement]]
) -> None:
    """Write what shadows said: (inspection id, its model version id, its outcome, the shadow's).

    Called in the transaction that writes the verdicts, for the photos that it writes.
    """
    rows = [
        {
            "inspection_id": inspection_id,
            "model_version_id": shadow.model_version_id,
            "active_version_id": active_version_id,
            "active_verdict": active.verdict,
            "active_disposition": active.disposition,
            **_opinion(shadow, active),
            "error_code": shadow.error_code,
        }
        for inspection_id, active_version_id, active, shadow in results
    ]
    if rows:
        session.execute(insert(ShadowResult), rows)


def _opinion(shadow: ShadowJudgement, active: Outcome) -> dict[str, object]:
    scores, outcome = shadow.scores, shadow.outcome
    if scores is None or outcome is None:
        return dict.fromkeys(
            (
                *("verdict", "disposition", "agrees"),
                *("defect_probability", "mse", "anomaly_score", "domain_distance"),
            )
        )
    return {
        "verdict": outcome.verdict,
        "disposition": outcome.disposition,
        "agrees": (outcome.verdict, outcome.disposition) == (active.verdict, active.disposition),
        "defect_probability": scores.defect_probability,
        "mse": scores.mse,
        "anomaly_score": scores.anomaly_score,
        "domain_distance": scores.domain_distance,
    }


def summarise(session: Session, *, organisation_id: str, name: str) -> ShadowSummary:
    """Counts over the photos that both present versions have judged.

    Raises NotFound where there is no shadow.
    """
    product = get_product(session, organisation_id=organisation_id, name=name)
    shadow, active, since, is_of_the_pair = _pair(product)
    groups = session.execute(
        select(
            ShadowResult.active_verdict,
            ShadowResult.active_disposition,
            ShadowResult.verdict,
            ShadowResult.disposition,
            ShadowResult.agrees,
            ShadowResult.error_code,
            func.count().label("photos"),
        )
        .where(is_of_the_pair)
        .group_by(
            ShadowResult.active_verdict,
            ShadowResult.active_disposition,
            ShadowResult.verdict,
            ShadowResult.disposition,
            ShadowResult.agrees,
            ShadowResult.error_code,
        )
    ).all()
    counts = {True: 0, False: 0}
    verdicts: dict[tuple[Verdict, Verdict], int] = {}
    dispositions: dict[tuple[Disposition, Disposition], int] = {}
    failures: dict[str, int] = {}
    for group in groups:
        if group.error_code is not None:
            failures[group.error_code] = failures.get(group.error_code, 0) + group.photos
            continue
        counts[group.agrees] += group.photos
        said = group.active_verdict, group.verdict
        verdicts[said] = verdicts.get(said, 0) + group.photos
        done = group.active_disposition, group.disposition
        dispositions[done] = dispositions.get(done, 0) + group.photos
    return ShadowSummary(
        product,
        shadow,
        active,
        since,
        counts[True],
        counts[False],
        verdicts,
        dispositions,
        failures,
    )


def page_of_disagreements(
    session: Session, *, organisation_id: str, name: str, page_size: int, page_token: str = ""
) -> tuple[list[ShadowResult], str]:
    """Photos of which the present two versions disagree, newest first, with their inspections,
    and the token of the next page: empty on the last. Raises NotFound without a shadow.
    """
    product = get_product(session, organisation_id=organisation_id, name=name)
    *_, is_of_the_pair = _pair(product)
    query = (
        select(ShadowResult)
        .where(is_of_the_pair, ~ShadowResult.agrees)
        .options(joinedload(ShadowResult.inspection, innerjoin=True))
    )
    if page_token:
        query = query.where(
            tuple_(ShadowResult.created_at, ShadowResult.inspection_id)
            < tuple_(*read_token(page_token))
        )
    rows = list(
        session.scalars(
            query.order_by(ShadowResult.created_at.desc(), ShadowResult.inspection_id.desc()).limit(
                page_size + 1
            )
        )
    )
    if len(rows) <= page_size:
        return rows, ""
    rows = rows[:page_size]
    return rows, make_token(rows[-1].created_at, rows[-1].inspection_id)


def _pair(product: Product) -> tuple[ModelVersion, ModelVersion, datetime, ColumnElement[bool]]:
    shadow, active, since = product.shadow_version, product.active_version, product.shadow_since
    if shadow is None or active is None or since is None:
        raise NotFound(f"Product {product.name!r} has no shadow version.", code="no_shadow")
    return (
        shadow,
        active,
        since,
        and_(
            ShadowResult.model_version_id == shadow.id,
            ShadowResult.active_version_id == active.id,
            ShadowResult.created_at >= since,
        ),
    )
