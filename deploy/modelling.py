"""What the modelling commands show a person: progress, tables, figures."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from deploy.photos import find_photos
from deploy.tables import print_verdicts
from shared.errors import DefectScopeError
from shared.inspection_document import InspectionOut, scores_out
from shared.manifest import Manifest
from shared.tables import Status
from worker.inspect.bundle import ProductModel
from worker.inspect.files import judge_files, open_bundle
from worker.inspect.pipeline import Judgement
from worker.train.evaluation import evaluate, picture_source
from worker.train.progress import Progress as Tell
from worker.train.recalibration import recalibrate
from worker.train.render import render_dataset
from worker.train.report import write_report
from worker.train.train import train

_stderr = Console(stderr=True, highlight=False)


@contextmanager
def _bars() -> Iterator[Tell]:
    """One progress bar a step, on standard error; finished ones stay."""
    with Progress(
        TextColumn("{task.description:<36}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=_stderr,
    ) as progress:
        tasks: dict[str, TaskID] = {}

        def tell(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = progress.add_task(step, total=total)
            progress.update(tasks[step], completed=done, total=total)

        yield tell


def train_with_progress(
    data: Path,
    *,
    more: Sequence[Path],
    product: str,
    out: Path,
    backbone: str,
    folds: int | None,
    policy: str,
    report: Path | None,
    seed: int,
) -> None:
    with _bars() as tell:
        manifest = train(
            data,
            more=more,
            product=product,
            out=out,
            backbone=backbone,
            folds=folds,
            policy=policy,
            report=report,
            seed=seed,
            progress=tell,
            warn=lambda warning: _stderr.print(f"warning: {warning}", markup=False),
        )
    _print_metrics("out-of-fold figure", manifest)
    counts = ", ".join(f"{count} {label}" for label, count in manifest.data.counts.items())
    _stderr.print(f"trained on {counts}; {len(manifest.data.held_out)} photos held out")
    if report is not None:
        _stderr.print(f"report {report / 'index.html'}")
    _stderr.print(f"bundle {out}: {manifest.product}, {manifest.digest}")


def calibrate_with_progress(bundle: Path, photos: Path, *, out: Path) -> None:
    with _bars() as tell:
        manifest = recalibrate(bundle, photos, out=out, progress=tell)
    _print_metrics("figure on these good photos", manifest)
    _stderr.print(
        "No defect was looked at: watch the first parts of this camera, or run the new version in "
        "shadow."
    )
    _stderr.print(f"bundle {out}: {manifest.product}, {manifest.digest}")


def _print_metrics(title: str, manifest: Manifest) -> None:
    table = Table(title, "value", box=None, pad_edge=False)
    for name, value in sorted(manifest.metrics.items()):
        table.add_row(name.replace("_", " "), f"{value:.4f}")
    _stderr.print(table)


def evaluate_and_print(bundle: Path, data: Path, *, report: Path | None, as_json: bool) -> None:
    with _bars() as tell:
        document = evaluate(bundle, data, progress=tell)
    if report is not None:
        page = write_report(document, report, picture_source(bundle, data))
        _stderr.print(f"report: {page}", soft_wrap=True)
    if as_json:
        print(json.dumps(document))
        return
    whole, intervals = document["whole_folder"], document["intervals"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column(f"unseen photos ({document['images']})", justify="right")
    table.add_column("95 % interval", justify="right")
    table.add_column(f"whole folder ({whole['images']})", justify="right")
    for part, figure in (
        *(("classifier", name) for name in ("auroc", "average_precision", "f1", "recall")),
        ("classifier", "false_alarm_rate"),
        *(("autoencoder", name) for name in ("auroc", "mse_auroc", "recall", "false_alarm_rate")),
        *(("combined", name) for name in ("escapes", "escape_rate", "review_load_on_good")),
        ("combined", "undecidable"),
    ):
        table.add_row(
            f"{part} {figure.replace('_', ' ')}",
            _figure(document[part][figure]),
            _interval(intervals[part].get(figure)),
            _figure(whole[part][figure]),
        )
    Console().print(table)
    for sentence in document["in_words"].values():
        _stderr.print(sentence)
    for note in document["notes"]:
        _stderr.print(note)
    if document["seen_in_training"]:
        _stderr.print(
            "The right column is no measure of quality: it is there to be compared with what a "
            "service says of the same folder."
        )


def predict_and_print(bundle: Path, paths: Sequence[str], *, as_json: bool) -> int:
    """Returns the exit code: 0 all pass, 1 something is defective or held, 2 unreadable."""
    photos = find_photos(paths)
    inspector, model = open_bundle(bundle)
    rows: list[tuple[str, Mapping[str, Any]]] = []
    with _bars() as tell:
        for path, judgement in judge_files(inspector, model, photos):
            document = _document(judgement, model, inspector.engine.name)
            rows.append((str(path), document))
            if as_json:
                print(json.dumps({"path": str(path), **document}), flush=True)
            tell("judging photos", len(rows), len(photos))
    if not as_json:
        print_verdicts(rows, Console())
    if any(document["error"] for _, document in rows):
        return 2
    return 0 if all(document["disposition"] == "pass" for _, document in rows) else 1


def render_with_progress(out: Path, *, count: int, seed: int) -> None:
    with _bars() as tell:
        render_dataset(
            out,
            count=count,
            seed=seed,
            progress=lambda done, total: tell("rendering photos", done, total),
        )
    _stderr.print(f"{count} photos in {out}")


def _document(
    judgement: Judgement | DefectScopeError, model: ProductModel, engine: str
) -> dict[str, Any]:
    """The document of the API; what only a service knows is null."""
    document: dict[str, Any] = dict.fromkeys(InspectionOut.model_fields)
    document |= {
        "product": model.manifest.product,
        "needs_review": False,
        "review_reasons": [],
        "metadata": {},
        "model": {
            "product": model.manifest.product,
            "version": None,
            "digest": model.digest,
            "engine": engine,
        },
    }
    if isinstance(judgement, DefectScopeError):
        return document | {
            "status": Status.FAILED.value,
            "error": {"code": judgement.code, "message": str(judgement)},
        }
    outcome = judgement.outcome
    scores = scores_out(judgement.scores, model.manifest.thresholds, judgement.anomaly_regions())
    return document | {
        "status": Status.SUCCEEDED.value,
        "verdict": outcome.verdict.value,
        "disposition": outcome.disposition.value,
        "verdict_source": "model",
        "needs_review": bool(outcome.review_reasons),
        "review_reasons": [reason.value for reason in outcome.review_reasons],
        **to_jsonable_python(scores),
    }


def _figure(value: float | int | None) -> str:
    if value is None:
        return "n/a"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _interval(value: Sequence[float] | None) -> str:
    return "" if value is None else f"{value[0]:.4f} to {value[1]:.4f}"
