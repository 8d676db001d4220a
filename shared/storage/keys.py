"""Keys of objects: where originals, maps and model files lie."""

from datetime import datetime

_SUFFIX = {"image/jpeg": "jpg", "image/png": "png"}


def image_key(organisation: str, inspection: str, media_type: str, at: datetime) -> str:
    """Key of an original: by day, so that a person can find it."""
    return f"images/{organisation}/{at:%Y/%m/%d}/{inspection}.{_SUFFIX[media_type]}"


def map_key(original: str, attempt: str, kind: str) -> str:
    """Key of a map made of `original` (kind: `overlay` or `anomaly-map`).

    The attempt is in the key, so that a worker that lost its lease cannot
    overwrite the maps of the one that did the work.
    """
    stem = original.removeprefix("images/").rsplit(".", 1)[0]
    return f"maps/{stem}-{attempt[:8]}-{kind}.jpg"


def artifact_key(sha256: str) -> str:
    """Key of a model file, by its digest (`sha256:…`)."""
    return f"artifacts/{sha256.removeprefix('sha256:')}"
