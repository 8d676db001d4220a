"""What other thresholds would do: to the photos that were judged, and as far as people decided.

Three kinds of parts are counted apart, because people see them for different reasons: of those
that the model passed, a random share (`random_audit`), which speaks for all of them; of those that
it held, all that were decided so far; of those that it rejected, none.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import literal, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from shared.intervals import exact
from shared.manifest import Thresholds
from shared.tables import (
    Inspection,
    ModelVersion,
    Product,
    Review,
    ReviewDecision,
    Status,
)
from shared.verdicts import Disposition, QualityReason, Scores, Verdict, decide

MOST_PHOTOS = 20_000
"""The newest ones."""


@dataclass(frozen=True)
class Judged:
    """A photo, and what a person said of it."""

    scores: Scores
    disposition: Disposition
    """The model's, by the thresholds of its time."""
    truth: Verdict | None
    """None: no person has decided."""


@dataclass(frozen=True)
class Share:
    """A count among many, with the exact 95 % interval of the share; None of nothing."""

    count: int
    of: int
    low: float | None
    high: float | None

    @classmethod
    def among(cls, count: int, of: int) -> "Share":
        low, high = exact(count, of) or (None, None)
        return cls(count, of, low, high)


@dataclass(frozen=True)
class Estimate:
    """How many there are among all photos."""

    count: float
    low: float
    high: float


@dataclass(frozen=True)
class Errors:
    """Escapes, or false alarms."""

    decided: Share
    """Among the defective, or good, parts that people decided."""
    estimated: Estimate | None
    """Among all photos but those of `unchecked`; None where people saw no part of some kind."""
    unchecked: int
    """Photos that would be escapes or false alarms if they were what nobody has checked."""


@dataclass(frozen=True)
class WhatIf:
    photos: int
    passes: int
    rejects: int
    review_load: Share
    escapes: Errors
    """Defective, and it would pass."""
    false_alarms: Errors
    """Good, and it would be rejected without a person looking."""


def read_judged(
    session: Session, product: Product, version: ModelVersion, *, since: datetime | None
) -> list[Judged]:
    """The newest photos whose scores this version would have given as well.

    Those are the photos of all versions with the same model file and temperature: they differ in
    thresholds only.
    """
    same = session.execute(
        select(ModelVersion.id, ModelVersion.thresholds).where(
            ModelVersion.product_id == product.id,
            *(
                # Said to be JSON: as a bare number, PostgreSQL would refuse it.
                ModelVersion.manifest[name] == literal(version.manifest[name], JSONB)
                for name in ("model", "backbone", "temperature", "quality")
            ),
        )
    )
    # Once a version: read with every photo, they take longer than the photos.
    thresholds = {row.id: Thresholds.model_validate(row.thresholds) for row in same}
    query = (
        select(
            Inspection.defect_probability,
            Inspection.mse,
            Inspection.anomaly_score,
            Inspection.domain_distance,
            Inspection.quality_reasons,
            Inspection.model_version_id,
            ReviewDecision.verdict,
        )
        .outerjoin(Review, Review.inspection_id == Inspection.id)
        .outerjoin(ReviewDecision, ReviewDecision.id == Review.decision_id)
        .where(
            Inspection.organisation_id == product.organisation_id,
            Inspection.status == Status.SUCCEEDED,
            Inspection.model_version_id.in_(thresholds),
        )
        .order_by(Inspection.created_at.desc())
        .limit(MOST_PHOTOS)
    )
    if since is not None:
        query = query.where(Inspection.created_at >= since)
    judged = []
    for row in session.execute(query):
        scores = Scores(
            row.defect_probability,
            row.mse,
            row.anomaly_score,
            row.domain_distance,
            tuple(QualityReason(reason) for reason in row.quality_reasons),
        )
        was = decide(scores, thresholds[row.model_version_id])
        judged.append(Judged(scores, was.disposition, row.verdict))
    return judged


def ask(judged: Sequence[Judged], thresholds: Thresholds) -> WhatIf:
    """What becomes of these photos with these thresholds."""
    would = [decide(photo.scores, thresholds).disposition for photo in judged]
    counts = Counter(would)
    return WhatIf(
        len(judged),
        counts[Disposition.PASS],
        counts[Disposition.REJECT],
        Share.among(counts[Disposition.HOLD], len(judged)),
        _errors(judged, would, Verdict.DEFECTIVE, Disposition.PASS),
        _errors(judged, would, Verdict.GOOD, Disposition.REJECT),
    )


def _errors(
    judged: Sequence[Judged], would: Sequence[Disposition], truth: Verdict, wrong: Disposition
) -> Errors:
    """Parts that are `truth` and would be disposed of as `wrong`."""
    both = list(zip(judged, would, strict=True))
    decided = [disposition for photo, disposition in both if photo.truth is truth]
    return Errors(
        Share.among(decided.count(wrong), len(decided)),
        _estimated(both, truth, wrong),
        sum(
            photo.disposition is Disposition.REJECT and photo.truth is None and after is wrong
            for photo, after in both
        ),
    )


def _estimated(
    both: Iterable[tuple[Judged, Disposition]], truth: Verdict, wrong: Disposition
) -> Estimate | None:
    """Each kind of parts scaled up from those of it that people found good or defective.

    The bounds add up those of the kinds, which is wider than need be.
    """
    both = list(both)
    count = low = high = 0.0
    for kind in (Disposition.PASS, Disposition.HOLD):
        all_of_it = [(photo, after) for photo, after in both if photo.disposition is kind]
        # Photos that are none of it whatever they show need nobody to look at them.
        at_risk = [(photo, after) for photo, after in all_of_it if after is wrong]
        # Whoever could not tell has found neither.
        seen = [photo for photo, _ in at_risk if photo.truth in {Verdict.GOOD, Verdict.DEFECTIVE}]
        if not at_risk:
            continue
        if not seen:
            return None
        found = sum(photo.truth is truth for photo in seen)
        bounds = exact(found, len(seen)) or (0.0, 1.0)
        count += len(at_risk) * found / len(seen)
        low += len(at_risk) * bounds[0]
        high += len(at_risk) * bounds[1]
    return Estimate(count, low, high)
