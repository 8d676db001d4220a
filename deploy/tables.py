"""Verdicts, products, shadows and keys as tables in the terminal."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_COLOUR = {"pass": "green", "reject": "red", "hold": "yellow"}
_WORDS = {
    "model_disagreement": "models disagree",
    "near_threshold": "near threshold",
    "out_of_domain": "not this product",
    "low_quality": "poor photo",
    "inspection_failed": "failed",
}


def print_verdicts(rows: Iterable[tuple[str, Mapping[str, Any]]], console: Console) -> None:
    """One line a photo: (path, inspection document or {"error": …})."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("photo", overflow="ellipsis", no_wrap=True, max_width=28)
    table.add_column("verdict", no_wrap=True)
    for name in ("P(defect)", "anomaly"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("part", no_wrap=True)
    table.add_column("because", overflow="fold")
    for path, document in rows:
        table.add_row(escape(path), *_cells(document))
    console.print(table)


def print_products(products: Iterable[Mapping[str, Any]], console: Console) -> None:
    """One line a product, as `GET /v1/products` gives them."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("product")
    table.add_column("active", justify="right")
    table.add_column("shadow", justify="right")
    for product in products:
        versions = (product["active_version"], product["shadow_version"])
        table.add_row(
            escape(product["name"]),
            *("-" if version is None else str(version) for version in versions),
        )
    console.print(table)


def print_shadow(summary: Mapping[str, Any], console: Console) -> None:
    """What `GET /v1/products/{name}/shadow` gives: totals, then one line a pair of opinions."""
    name, active = summary["product"], summary["active_version"]
    console.print(
        f"{name}@{summary['shadow_version']} in the shadow of {name}@{active} "
        f"since {summary['since']}\n"
        f"judged by both: {summary['inspections']}, agree: {summary['agreements']}, "
        f"disagree: {summary['disagreements']}, shadow failed: {summary['failures']}",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "active", "shadow"):
        table.add_column(column)
    table.add_column("photos", justify="right")
    for of in ("verdict", "disposition"):
        for pair in summary[f"{of}s"]:
            style = None if pair["active"] == pair["shadow"] else "yellow"
            table.add_row(of, pair["active"], pair["shadow"], str(pair["inspections"]), style=style)
    for code, count in summary["failure_codes"].items():
        table.add_row("failure", "", code, str(count), style="red")
    if table.row_count:
        console.print(table)


def _cells(document: Mapping[str, Any]) -> list[str]:
    error = document.get("error")
    if error:
        return ["[red]failed[/red]", "", "", "", escape(f"{error['code']}: {error['message']}")]
    classifier, autoencoder = document["classifier"], document["autoencoder"]
    disposition = document["disposition"] or document["status"]
    colour = _COLOUR.get(disposition, "default")
    return [
        document["verdict"] or document["status"],
        _against_threshold(classifier["defect_probability"], classifier["threshold"], ".1%")
        if classifier
        else "",
        _against_threshold(autoencoder["anomaly_score"], autoencoder["threshold"], ".1f")
        if autoencoder
        else "",
        f"[{colour}]{disposition}[/{colour}]",
        ", ".join(_WORDS.get(reason, reason) for reason in document["review_reasons"]),
    ]


def _against_threshold(value: float, threshold: float, form: str) -> str:
    """Red where it speaks for a defect."""
    text = format(value, form)
    return f"[red]{text}[/red]" if value >= threshold else text


def print_keys(keys: Iterable[Mapping[str, Any]], console: Console) -> None:
    """One line a key, as `GET /v1/keys` gives them."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("key", "name", "scopes", "expires", "revoked"):
        table.add_column(name)
    for key in keys:
        table.add_row(
            key["id"],
            escape(key["name"]),
            ", ".join(key["scopes"]),
            (key["expires_at"] or "never")[:10],
            (key["revoked_at"] or "")[:10],
        )
    console.print(table)
