"""What handlers need from the app: settings, bell, waiting callers, door, base of links."""

from typing import Annotated, cast

from fastapi import Depends, Request

from api.admission import Admission
from api.waiting import Waiting
from shared.queue import Ringer
from shared.settings import Settings


async def _settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


async def _ringer(request: Request) -> Ringer:
    return cast(Ringer, request.app.state.ringer)


async def _waiting(request: Request) -> Waiting:
    return cast(Waiting, request.app.state.waiting)


async def _admission(request: Request) -> Admission:
    return cast(Admission, request.app.state.admission)


async def _base_url(request: Request) -> str:
    configured = cast(Settings, request.app.state.settings).public_url
    return (configured or str(request.base_url)).rstrip("/")


AppSettings = Annotated[Settings, Depends(_settings)]
Bell = Annotated[Ringer, Depends(_ringer)]
WaitingCallers = Annotated[Waiting, Depends(_waiting)]
Door = Annotated[Admission, Depends(_admission)]
BaseUrl = Annotated[str, Depends(_base_url)]
