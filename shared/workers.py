"""Which workers and deliverers are alive: they say so every few seconds."""

from datetime import timedelta

from sqlalchemy import ColumnElement, and_, delete, exists, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.tables import Worker

PRESUMED_DEAD = timedelta(seconds=30)


def report_alive(session: Session, *, worker: str, engine: str = "") -> None:
    """`worker`: `worker:HOST-PID`, or `deliverer:HOST-PID`, which has no engine."""
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
        session.scalars(select(Worker.engine).where(is_alive("worker")).order_by(Worker.engine))
    )


def is_deliverer_alive(session: Session) -> bool:
    return session.scalars(select(exists().where(is_alive("deliverer")))).one()


def is_alive(role: str, host: str = "") -> ColumnElement[bool]:
    """Of a row: whether it is a living `worker` or `deliverer`, of this host if one is named."""
    start = f"{role}:{host}-" if host else f"{role}:"
    return and_(
        Worker.id.startswith(start, autoescape=True),
        Worker.seen_at > func.now() - PRESUMED_DEAD,
    )
