"""Is the worker of this container alive? Exit code 0 if it has said so lately, else 1.

With `deliverer` as argument, its deliverer. Neither listens on a port; what they say in the
database is what the API goes by too.
"""

import socket
import sys

from sqlalchemy import exists, select

from shared.db import transaction
from shared.errors import DatabaseUnavailable
from shared.workers import is_alive


def main(role: str = "worker") -> int:
    try:
        with transaction() as session:
            if session.scalars(select(exists().where(is_alive(role, socket.gethostname())))).one():
                return 0
    except DatabaseUnavailable as error:
        print(error)
        return 1
    print(f"The {role} has not reported; is it still starting?")
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
