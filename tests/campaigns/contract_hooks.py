"""What schemathesis cannot make up: photos, and identifiers of things that are there."""

import json
import os
import random
from collections import defaultdict
from typing import Any

import schemathesis
from chaos import photo
from hypothesis import strategies as st

_PHOTOS = st.sampled_from([photo(number) for number in range(4)])
_MOST_KNOWN = 50
_SOMETIMES = 0.7
_LONGEST_ID = 40

_known: dict[str, list[str]] = defaultdict(list)
"""Identifiers that answers named, by prefix."""
_PREFIX = {
    **{"inspection_id": "insp", "batch_id": "batch", "upload_id": "up", "key_id": "key"},
    **{"endpoint_id": "whe", "delivery_id": "msg"},
}
_RECEIVER = "http://127.0.0.1:9/hook"
"""Where nobody listens, on a network that the stack of this campaign allows."""
_random = random.Random(0)

for media_type in ("image/png", "image/jpeg"):
    schemathesis.openapi.media_type(media_type, _PHOTOS)


@schemathesis.deserializer("application/x-ndjson")
def read_lines(context: Any, response: Any) -> str:
    """Text, as the schema says; with one line it would be taken for the document in it."""
    text = str(response.text)
    for line in text.splitlines():
        json.loads(line)
    return text


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    if isinstance(body, dict):
        if "file" in body and _random.random() < _SOMETIMES:
            body["file"] = photo(0)
            body.pop("metadata", None)
        if not _known["batch"]:
            body.pop("batch_id", None)  # or none would ever be begun
        _name_known(body)
        if "url" in body and _random.random() < _SOMETIMES:
            body["url"] = _RECEIVER
        if "product" in body and _random.random() < _SOMETIMES:
            body["product"] = "bottle"
    return body


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: Any) -> Any:
    if path_parameters:
        _name_known(path_parameters)
        if "name" in path_parameters and _random.random() < _SOMETIMES:
            path_parameters["name"] = "bottle"
    return path_parameters


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """The key that asks must not be revoked by what it asks: after that all answers are 401."""
    if case.path_parameters.get("key_id") == os.environ["CONTRACT_KEY_ID"]:
        case.path_parameters["key_id"] = "key_0000000000000000"


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    try:
        answer = response.json()
    except ValueError:
        return
    for found in answer.values() if isinstance(answer, dict) else ():
        for entry in found if isinstance(found, list) else [{"id": found}]:
            id_ = entry.get("id") if isinstance(entry, dict) else None
            prefix = id_.split("_")[0] if isinstance(id_, str) and len(id_) < _LONGEST_ID else ""
            if prefix in _PREFIX.values():
                _known[prefix] = [*_known[prefix], id_][-_MOST_KNOWN:]


def _name_known(parameters: dict[str, Any]) -> None:
    for name, prefix in _PREFIX.items():
        if name in parameters and _known[prefix] and _random.random() < _SOMETIMES:
            parameters[name] = _random.choice(_known[prefix])
