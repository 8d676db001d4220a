"""`defectscope export`: what people decided, as a data set in MVTec layout to train on.

    OUT/train/good/insp_….jpg                        decided good
    OUT/train/<defect type>/insp_….jpg               decided defective; `other` without a type
    OUT/ground_truth/<defect type>/insp_…_mask.png   the region, where one was drawn
    OUT/decisions.ndjson                             a line a photo: scores, decision, digest

Run again, it fetches what is new and follows what was decided anew.
"""

import hashlib
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from api.client import DefectScope
from deploy.terminal import CommandError
from shared.reviews import OTHER

_SUFFIX = {"image/jpeg": ".jpg", "image/png": ".png"}
_LABEL = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_GOOD = "good"
_DECISIONS = "decisions.ndjson"


@dataclass
class Exported:
    labels: Counter[str] = field(default_factory=Counter)
    fetched: int = 0
    undecidable: int = 0
    without_picture: int = 0
    """Deleted by retention."""


def export_with_progress(
    client: DefectScope, out: Path, *, product: str, since: str | None, until: str | None
) -> None:
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task("decided parts", total=None)
        exported = export(
            client,
            out,
            product=product,
            since=since,
            until=until,
            tell=lambda done: bars.update(task, completed=done),
        )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("label")
    table.add_column("photos", justify="right")
    for label, count in sorted(exported.labels.items()):
        table.add_row(label, str(count))
    console = Console()
    console.print(table)
    console.print(
        f"{exported.fetched} fetched, the rest was there; left out: {exported.undecidable} that "
        f"nobody could tell, {exported.without_picture} whose picture is no longer kept"
    )


def export(
    client: DefectScope,
    out: Path,
    *,
    product: str,
    since: str | None = None,
    until: str | None = None,
    tell: Callable[[int], None] = lambda _: None,
) -> Exported:
    """Bring the folder to what people have decided; the decision in force counts.

    Raises CommandError for a photo that is not the one that was submitted, and OSError.
    """
    filters: dict[str, str | int] = {
        "product": product,
        "verdict_source": "person",
        "page_size": 500,
    }
    filters |= {name: day for name, day in (("since", since), ("until", until)) if day}
    exported = Exported()
    entries = _told_before(out)
    for done, inspection in enumerate(client.inspections(**filters), start=1):
        document = inspection.document
        decision = document["review"]["decision"]
        if decision["verdict"] == "undecidable":
            exported.undecidable += 1
            _remove_others(out, document["id"], keep=None)
            entries.pop(document["id"], None)
        elif document["image"]["url"] is None:
            exported.without_picture += 1
            # One that was fetched before stays, but not under a label that no longer holds.
            _remove_others(out, document["id"], keep=_label(decision))
            if (known := entries.get(document["id"])) and (out / known["file"]).is_file():
                known["decision"] = decision
                _draw_mask(out, document, _label(decision), decision["region"])
        else:
            label = _label(decision)
            photo = _fetch(client, out, document, label, exported)
            _draw_mask(out, document, label, decision["region"])
            exported.labels[label] += 1
            entries[document["id"]] = _entry(document, decision, photo.relative_to(out))
        tell(done)
    out.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(entry) for entry in entries.values() if (out / entry["file"]).is_file()]
    _write(out / _DECISIONS, "".join(f"{line}\n" for line in lines).encode())
    return exported


def _told_before(out: Path) -> dict[str, dict[str, Any]]:
    """The entry of each photo that earlier exports, of other days too, have written."""
    path = out / _DECISIONS
    if not path.is_file():
        return {}
    try:
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        return {entry["id"]: {**entry, "file": str(entry["file"])} for entry in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError(
            f"{path} is not what `export` writes: remove it, or export to another folder."
        ) from error


def _label(decision: Mapping[str, Any]) -> str:
    """The folder of a decision: what the service calls a type is no path until we have looked."""
    if decision["verdict"] == _GOOD:
        return _GOOD
    named = decision["defect_type"] or OTHER
    return named if _LABEL.fullmatch(named) and named != _GOOD else OTHER


def _fetch(
    client: DefectScope, out: Path, document: Mapping[str, Any], label: str, exported: Exported
) -> Path:
    suffix = _SUFFIX[document["image"]["media_type"]]
    path = out / "train" / label / f"{_name(document)}{suffix}"
    _remove_others(out, document["id"], keep=label)
    if not (path.is_file() and _digest(path.read_bytes()) == document["image"]["sha256"]):
        data = client.picture(document["id"], "image")
        if _digest(data) != document["image"]["sha256"]:
            raise CommandError(
                f"The photo of {document['id']} is not the one that was submitted: its digest is "
                "another. Nothing of it was written."
            )
        _write(path, data)
        exported.fetched += 1
    return path


def _name(document: Mapping[str, Any]) -> str:
    if not re.fullmatch(r"insp_[0-9a-z]{26}", document["id"]):
        raise CommandError(f"{document['id']!r} is no id of an inspection.")
    return str(document["id"])


def _remove_others(out: Path, inspection_id: str, *, keep: str | None) -> None:
    """Decided anew, a photo leaves the folder of what it was called before: all but one label's."""
    for kind in ("train", "ground_truth"):
        for path in (out / kind).glob(f"*/{inspection_id}*"):
            if path.parent.name != keep:
                path.unlink()
                with suppress(OSError):  # others are in it; an empty one `train` would refuse
                    path.parent.rmdir()


def _draw_mask(
    out: Path, document: Mapping[str, Any], label: str, region: list[Any] | None
) -> None:
    """The region in the size of the photo: white on black, as MVTec has it."""
    path = out / "ground_truth" / label / f"{_name(document)}_mask.png"
    if label == _GOOD or not region:
        path.unlink(missing_ok=True)
        return
    width, height = document["image"]["width"], document["image"]["height"]
    mask = np.zeros((height, width), np.uint8)
    for polygon in region:
        corners = np.round(np.array(polygon) * (width, height) - 0.5).astype(np.int32)
        cv2.fillPoly(mask, [corners], 255)
    _write(path, cv2.imencode(".png", mask)[1].tobytes())


def _entry(document: Mapping[str, Any], decision: Mapping[str, Any], file: Path) -> dict[str, Any]:
    kept = ("id", "product", "part", "model_verdict", "review_reasons", "classifier")
    entry = {name: document[name] for name in (*kept, "autoencoder", "domain", "model")}
    entry |= {"file": str(file), "sha256": document["image"]["sha256"], "decision": decision}
    return entry


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=".incoming-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
