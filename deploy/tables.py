"""Verdicts as a table in the terminal."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

_COLOUR = {"pass": "green", "reject": "red", "hold": "yellow"}


def print_verdicts(rows: Iterable[tuple[str, Mapping[str, Any]]], console: Console) -> None:
    """One line a photo: (path, inspection document or {"error": …})."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("photo", overflow="ellipsis", no_wrap=True, max_width=38)
    table.add_column("verdict", no_wrap=True)
    for name in ("P(defect)", "anomaly"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("disposition", no_wrap=True)
    table.add_column("why a person looks", overflow="fold")
    for path, document in rows:
        table.add_row(path, *_cells(document))
    console.print(table)


def _cells(document: Mapping[str, Any]) -> list[str]:
    error = document.get("error")
    if error:
        return ["[red]failed[/red]", "", "", "", f"{error['code']}: {error['message']}"]
    classifier, autoencoder = document["classifier"], document["autoencoder"]
    disposition = document["disposition"] or document["status"]
    colour = _COLOUR.get(disposition, "default")
    return [
        document["verdict"] or document["status"],
        f"{classifier['defect_probability']:.1%}" if classifier else "",
        f"{autoencoder['anomaly_score']:.1f} / {autoencoder['threshold']:.1f}"
        if autoencoder
        else "",
        f"[{colour}]{disposition}[/{colour}]",
        ", ".join(reason.replace("_", " ") for reason in document["review_reasons"]),
    ]
