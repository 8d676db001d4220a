"""Whose turn it is: the most urgent photos first, and among those the sources one after another.

A source is a key with its station and lot. Whoever has sent a hundred thousand photos gets every
other place when one more source waits, and never all of them.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, DateTime, Row, bindparam, func, literal, text
from sqlalchemy.orm import Session

Moment = datetime | ColumnElement[datetime]
DATABASE_NOW: Moment = func.clock_timestamp()
"""One clock for all workers. Tests pass a datetime instead."""
ITS_NOW = func.coalesce(bindparam("now", type_=DateTime(timezone=True)), func.clock_timestamp())
"""In a statement that is put together once; `now` is what `given` says."""

_MORE = 4
"""Candidates for each place: other workers may hold the first ones at this moment."""

_IS_DUE = "run_at <= coalesce(CAST(:now AS timestamptz), clock_timestamp())"

# One look into the partial index for the priority, one for each source from where the last claim
# ended and round to the start, and one for each of their oldest photos: what is finished, and how
# much a source has queued, costs nothing. The outer query alone locks.
_TURNS = text(f"""
WITH RECURSIVE urgent AS (
  SELECT priority FROM inspections
  WHERE status = 'queued' AND {_IS_DUE}
  ORDER BY priority DESC LIMIT 1
), onward(source, place) AS (
  (SELECT source, 1 FROM inspections
   WHERE status = 'queued' AND priority = (SELECT priority FROM urgent) AND source > :after
   ORDER BY source LIMIT 1)
  UNION ALL
  SELECT next.source, place + 1 FROM onward, LATERAL (
    SELECT source FROM inspections
    WHERE status = 'queued' AND priority = (SELECT priority FROM urgent)
      AND source > onward.source
    ORDER BY source LIMIT 1
  ) AS next WHERE place < :limit
), around(source, place) AS (
  (SELECT source, 1 FROM inspections
   WHERE status = 'queued' AND priority = (SELECT priority FROM urgent) AND source <= :after
   ORDER BY source LIMIT 1)
  UNION ALL
  SELECT next.source, place + 1 FROM around, LATERAL (
    SELECT source FROM inspections
    WHERE status = 'queued' AND priority = (SELECT priority FROM urgent)
      AND source > around.source AND source <= :after
    ORDER BY source LIMIT 1
  ) AS next WHERE place < :limit
), sources AS (
  SELECT source, place FROM onward
  UNION ALL
  SELECT source, place + :limit FROM around
), candidates AS (
  SELECT photo.id, photo.turn, sources.place FROM sources, LATERAL (
    SELECT id, row_number() OVER (ORDER BY created_at) AS turn FROM (
      SELECT id, created_at FROM inspections
      WHERE status = 'queued' AND priority = (SELECT priority FROM urgent)
        AND source = sources.source AND {_IS_DUE}
      ORDER BY created_at LIMIT :candidates
    ) AS oldest
  ) AS photo
  ORDER BY turn, place LIMIT :candidates
)
SELECT inspections.id, inspections.is_alone, inspections.source
FROM inspections JOIN candidates USING (id)
WHERE inspections.status = 'queued'
ORDER BY candidates.turn, candidates.place LIMIT :limit
FOR UPDATE OF inspections SKIP LOCKED
""")  # noqa: S608 - our own words

# Where others hold all candidates, for instance many workers at one long lot.
_ANY = text(f"""
SELECT id, is_alone, source FROM inspections
WHERE status = 'queued' AND {_IS_DUE}
ORDER BY priority DESC, source, created_at LIMIT :limit
FOR UPDATE SKIP LOCKED
""")  # noqa: S608 - our own words


def due_photos(
    session: Session, *, limit: int, after: str, now: Moment = DATABASE_NOW
) -> Sequence[Row[Any]]:
    """Id, is_alone and source of up to `limit` queued photos, now locked, in the order of turns.

    `after`: the source that was served last. Rows that another worker holds are skipped.
    """
    values = {
        "limit": limit,
        "candidates": _MORE * limit,
        "after": after,
        "now": given(now),
    }
    return session.execute(_TURNS, values).all() or session.execute(_ANY, values).all()


def given(now: Moment) -> datetime | None:
    """The moment of a test, or None for the database's own."""
    return now if isinstance(now, datetime) else None


def at(now: Moment) -> ColumnElement[datetime]:
    """The moment as part of a statement."""
    return literal(now) if isinstance(now, datetime) else now
