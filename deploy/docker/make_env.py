"""Write .env for `docker compose`: a copy of .env.example with fresh secrets.

Runs on the Docker host: the standard library only. An .env that is there
already stays as it is, because the database keeps its first password.
"""

import os
import re
import secrets
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def fresh_secrets() -> dict[str, str]:
    """Values for the variables that .env.example leaves empty; letters, digits and `_` only."""
    return {
        "POSTGRES_PASSWORD": secrets.token_hex(24),
        "REDIS_PASSWORD": secrets.token_hex(24),
        "DEFECTSCOPE_S3_SECRET_ACCESS_KEY": secrets.token_hex(24),
        "DEFECTSCOPE_ADMIN_KEY": f"ds_{secrets.token_hex(8)}_{secrets.token_hex(32)}",
    }


def fill(example: str, values: dict[str, str]) -> str:
    """The example with these values in the lines `NAME=`. Raises KeyError for one that has none."""
    return re.sub(
        r"^(\w+)=$", lambda line: f"{line[1]}={values[line[1]]}", example, flags=re.MULTILINE
    )


def main(root: Path) -> int:
    example = (root / ".env.example").read_text(encoding="utf-8")
    path = root / ".env"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        print(f"{path} is there already and stays as it is.", file=sys.stderr)
        return 1
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(fill(example, fresh_secrets()))
    print(f"{path} written; the API key is DEFECTSCOPE_ADMIN_KEY in it.")
    return 0


if __name__ == "__main__":
    sys.exit(main(_ROOT))
