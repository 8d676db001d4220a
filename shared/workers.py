"""Which worker processes are alive: they say so in every round of upkeep."""

from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.tables import Worker

PRESUMED_DEAD = timedelta(seconds=30)


def report_alive(session: Session, *, worker: str, engine: str) -> None:
    session.execute(
        insert(Worker)
        .values(id=worker, engine=engine)
        .on_conflict_do_update(
            index_elements=[Worker.id], set_={"seen_at": func.now(), "engine": engine}
        )
    )


def report_gone(session: Session, *, worker: str) -> None:
    session.execute(delete(Worker).where(Worker.id == worker))


def forget_dead(session: Session) -> None:
    session.execute(delete(Worker).where(Worker.seen_at < func.now() - PRESUMED_DEAD))


def engines_alive(session: Session) -> list[str]:
    """The engines of each living worker, as it names them; one entry a worker."""
    return list(
        session.scalars(
            select(Worker.engine)
            .where(Worker.seen_at > func.now() - PRESUMED_DEAD)
            .order_by(Worker.engine)
        )
    )
