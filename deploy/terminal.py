"""What commands share: the terminal, the client of the service, and how they fail."""

from typing import Annotated, Any

import typer
from rich.console import Console

from shared.errors import DefectScopeError
from shared.settings import get_settings

console = Console(stderr=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]


class CommandError(DefectScopeError):
    """The command cannot run as it was called."""


def get_client() -> Any:
    """The client for the service that the environment names."""
    from api.client import DefectScope  # noqa: PLC0415

    settings = get_settings()
    if settings.api_key is None:
        raise CommandError(
            "Set DEFECTSCOPE_API_KEY to a key of the service; `defectscope up` keeps the first "
            "one in admin.key in its data folder."
        )
    return DefectScope(settings.url, settings.api_key.get_secret_value())
