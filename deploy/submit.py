"""`defectscope submit`: many photos through a running service, with progress and a table."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from api.client import DefectScope, DefectScopeApiError, DefectScopeUnreachable
from deploy.photos import find_photos
from deploy.tables import print_verdicts

_AT_ONCE = 8
_LONGEST_WAIT_SECONDS = 600

ALL_PASS, NOT_ALL_PASS, ERROR = 0, 1, 2


def submit_paths(
    client: DefectScope,
    paths: Sequence[str],
    part: Mapping[str, Any],
    *,
    overlays: Path | None,
    as_json: bool,
    console: Console,
) -> int:
    """Submit all photos, wait for their outcomes, print them; returns the exit code.

    With `as_json`, stdout gets one inspection document a line, with `path` in
    it, in the order of the photos; a photo that was refused has only `path` and
    `error`. Labels are read from folders: where some photos lie in `good` and
    others do not, AUROC of both models follows.
    """
    photos = find_photos(paths)
    if overlays is not None:
        overlays.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[Path, Mapping[str, Any]]] = []
    with (
        client,
        ThreadPoolExecutor(_AT_ONCE) as pool,
        Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        ) as progress,
    ):
        sent = progress.add_task("submitted", total=len(photos))
        judged = progress.add_task("judged", total=len(photos))

        def send(photo: Path) -> str | Mapping[str, Any]:
            try:
                return client.submit(photo, **part).id
            except (DefectScopeApiError, DefectScopeUnreachable, OSError) as error:
                return _refusal(error)
            finally:
                progress.advance(sent)

        # All are queued before the first is waited for, so that batches can form.
        for photo, answer in zip(photos, list(pool.map(send, photos)), strict=True):
            document = answer if isinstance(answer, Mapping) else _outcome(client, answer)
            if overlays is not None and document.get("overlay_url"):
                _save_overlay(client, document["id"], photo, overlays, console)
            rows.append((photo, document))
            if as_json:
                print(json.dumps({"path": str(photo), **document}), flush=True)
            progress.advance(judged)
    if not as_json:
        print_verdicts([(_short(path), document) for path, document in rows], Console())
    _print_auroc(rows, console)
    return _exit_code([document for _, document in rows])


def _save_overlay(
    client: DefectScope, inspection_id: str, photo: Path, folder: Path, console: Console
) -> None:
    name = "-".join(photo.parts[-2:])
    try:
        (folder / f"{name}-{inspection_id[-4:]}.jpg").write_bytes(client.picture(inspection_id))
    except (DefectScopeApiError, DefectScopeUnreachable, OSError) as error:
        console.print(f"no overlay of {escape(str(photo))}: {escape(str(error))}")


def _outcome(client: DefectScope, inspection_id: str) -> Mapping[str, Any]:
    try:
        return client.wait(inspection_id, timeout_seconds=_LONGEST_WAIT_SECONDS).document
    except (DefectScopeApiError, DefectScopeUnreachable, TimeoutError) as error:
        return _refusal(error)


def _refusal(error: Exception) -> Mapping[str, Any]:
    code = error.code if isinstance(error, DefectScopeApiError) else type(error).__name__
    return {"error": {"code": code, "message": str(error)}}


def _short(path: Path) -> str:
    return "/".join(path.parts[-2:])


def _exit_code(documents: Sequence[Mapping[str, Any]]) -> int:
    if any("id" not in document for document in documents):
        return ERROR
    passed = all(document["disposition"] == "pass" for document in documents)
    return ALL_PASS if passed else NOT_ALL_PASS


def _print_auroc(rows: Sequence[tuple[Path, Mapping[str, Any]]], console: Console) -> None:
    labelled = [
        (path.parent.name != "good", document)
        for path, document in rows
        if document.get("classifier")
    ]
    labels = [is_defect for is_defect, _ in labelled]
    if not (any(labels) and not all(labels)):
        return
    try:
        from sklearn.metrics import roc_auc_score  # noqa: PLC0415 - only with the worker extra
    except ImportError:
        return
    classifier = [document["classifier"]["defect_probability"] for _, document in labelled]
    autoencoder = [document["autoencoder"]["anomaly_score"] for _, document in labelled]
    console.print(
        f"AUROC over these {len(labels)} photos ({sum(labels)} not in a folder `good`): "
        f"classifier {roc_auc_score(labels, classifier):.4f}, "
        f"autoencoder {roc_auc_score(labels, autoencoder):.4f}",
        soft_wrap=True,
    )
