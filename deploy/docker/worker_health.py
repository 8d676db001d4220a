"""Is the worker of this container alive? Exit code 0 if it has said so lately, else 1.

A worker listens on no port; what it says in the database is what the API goes by too.
"""

import socket
import sys

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from shared.db import transaction
from shared.errors import DatabaseUnavailable
from shared.tables import Worker
from shared.workers import PRESUMED_DEAD


def is_alive(session: Session, host: str) -> bool:
    """Whether a worker process on this host has reported within the time the API allows."""
    reports = session.scalar(
        select(func.count()).where(
            Worker.id.startswith(f"worker:{host}-", autoescape=True),
            Worker.seen_at > func.now() - PRESUMED_DEAD,
        )
    )
    return bool(reports)


def main() -> int:
    try:
        with transaction() as session:
            if is_alive(session, socket.gethostname()):
                return 0
    except DatabaseUnavailable as error:
        print(error)
        return 1
    print("The worker has not reported; is it still loading its models?")
    return 1


if __name__ == "__main__":
    sys.exit(main())
