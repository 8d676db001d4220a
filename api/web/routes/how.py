"""The page that explains how a verdict comes about, with the figures that are in force here."""

import json

from fastapi import APIRouter, Request, Response

from api.web.rendering import HERE, page
from api.web.visiting import Anybody, PageRoute
from shared import products, version_cards
from shared.db import transaction
from shared.tables import Scope

router = APIRouter(route_class=PageRoute, include_in_schema=False)

_DRAWN = json.loads((HERE / "examples.json").read_text())
"""What the bundled model says of the samples: written by deploy/readme/draw_examples.py."""


@router.get("/how-it-works")
def how_it_works(request: Request, visitor: Anybody) -> Response:
    active = []
    if visitor.caller.may(Scope.READ):
        with transaction() as session:
            for product in products.list_products(session, visitor.caller.organisation_id):
                if (version := product.active_version) is not None:
                    card = version_cards.get_card(session, product, version.version)
                    active.append((product.name, card))
    return page(request, "how.html", drawn=_DRAWN, active=active)
