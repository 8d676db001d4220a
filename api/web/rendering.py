"""From a template to a page: what every page knows, and the headers that it has.

No inline script or style, nothing from another host, so that whatever a part's serial number
says, a browser runs none of it.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from shared.settings import get_settings
from shared.tables import Scope
from shared.verdicts import ReviewReason

HERE = Path(__file__).parent
STATIC = HERE / "static"

REASONS = {
    ReviewReason.MODEL_DISAGREEMENT: "The two models disagree",
    ReviewReason.NEAR_THRESHOLD: "Too close to call",
    ReviewReason.OUT_OF_DOMAIN: "Not a photo of this product",
    ReviewReason.LOW_QUALITY: "Too poor a photo",
    ReviewReason.INSPECTION_FAILED: "The inspection failed",
    ReviewReason.RANDOM_AUDIT: "Random audit",
}
"""Review reasons in plain words."""

EXPLAINED = {
    ReviewReason.MODEL_DISAGREEMENT: "One of them calls this part defective and the other does "
    "not. Look at both maps: what each of them saw is red.",
    ReviewReason.NEAR_THRESHOLD: "The defect probability lies where the classifier has been wrong "
    "before.",
    ReviewReason.OUT_OF_DOMAIN: "It is unlike anything that the model was trained on: another "
    "product, another view, or something in the way. The numbers mean nothing here.",
    ReviewReason.LOW_QUALITY: "The photo is blurred, too dark, too bright or too small. Take "
    "another one if you can.",
    ReviewReason.INSPECTION_FAILED: "There is no verdict, so nobody knows whether the part is "
    "good.",
    ReviewReason.RANDOM_AUDIT: "Nothing is wrong: some passed parts are looked at by chance, to "
    "learn how many defects escape.",
}


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "words": _words,
        "utc": _utc,
        "pretty": _pretty,
    }
    environment.globals |= {
        "asset": _asset,
        "REASONS": REASONS,
        "EXPLAINED": EXPLAINED,
        "Scope": Scope,
    }
    return environment


def render(template: str, values: Mapping[str, Any]) -> str:
    return _environment().get_template(template).render(values)


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """The page for whoever asks; `visitor` and `csrf` come from the request's session."""
    known = {
        "path": request.url.path,
        "visitor": getattr(request.state, "visitor", None),
        "csrf": getattr(request.state, "csrf", ""),
    }
    return HTMLResponse(
        render(template, known | values),
        status,
        {"Content-Security-Policy": _policy(), "Cache-Control": "no-store"},
    )


@lru_cache(maxsize=1)
def _policy() -> str:
    settings = get_settings()
    # Pictures are redirected to the object store.
    store = settings.s3_public_endpoint_url or settings.s3_endpoint_url
    parts = urlsplit(store) if store else None
    pictures = f" {parts.scheme}://{parts.netloc}" if parts else ""
    if store is None and settings.storage_url.startswith("s3://"):
        pictures = " https://*.amazonaws.com"
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        f"img-src 'self' blob: data:{pictures}; font-src 'self'; form-action 'self'; "
        "manifest-src 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


@lru_cache(maxsize=64)
def _asset(name: str) -> str:
    """Address of a static file that changes with its content, so that it can be kept for ever."""
    digest = sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/assets/{name}?v={digest}"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _words(name: str) -> str:
    return str(name).replace("_", " ")


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def _utc(moment: datetime | str | None) -> str:
    """For <time datetime>: the script of the page shows it in the reader's own time."""
    if moment is None:
        return ""
    if isinstance(moment, str):
        return moment
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
