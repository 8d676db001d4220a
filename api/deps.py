"""What handlers need from the app: its standing parts, and the base of links."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from api.admission import Admission
from api.looks import Looks
from api.rates import Rates
from api.stream import Stream
from api.waiting import Waiting
from shared.queue import Ringer
from shared.settings import Settings


@dataclass(frozen=True)
class Gateway:
    """What lives as long as the app."""

    settings: Settings
    bell: Ringer
    deliverers: Ringer
    waiting: Waiting
    stream: Stream
    door: Admission
    rates: Rates
    looks: Looks


# Coroutines: FastAPI would send plain functions to a thread, for every request.
async def _gateway(request: Request) -> Gateway:
    return cast(Gateway, request.app.state.gateway)


async def _base_url(request: Request) -> str:
    configured = cast(Gateway, request.app.state.gateway).settings.public_url
    return (configured or str(request.base_url)).rstrip("/")


AppGateway = Annotated[Gateway, Depends(_gateway)]
BaseUrl = Annotated[str, Depends(_base_url)]
