"""The evaluation as a page for people and as JSON for programs.

The page is one file that needs nothing else: plots are inline SVG, pictures are
data URIs. Everything on it comes from the document, and the document lies
beside it.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from worker.inspect.overlay import draw_overlay, encode, scale
from worker.train import plots
from worker.train.dataset import GOOD
from worker.train.judged import Flags, Maps, log_odds

_MAX_MISTAKES = 12
_MAX_NEAREST = 8
_OUTLINE = (80, 220, 255)
_MISSING = "\u2013"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Pictures:
    """What is shown of one photo, as JPEG."""

    photo: bytes
    attention: bytes
    """Grad-CAM over the photo."""
    strangeness: bytes
    """Anomaly map over the photo."""


def draw_pictures(photo: NDArray[np.uint8], maps: Maps) -> Pictures:
    """What is shown of a photo (256, 256, 3) RGB and its maps, in the scales that serve."""
    limits = maps.limits
    strangeness = maps.strangeness.astype(np.float32)
    return Pictures(
        encode(photo if maps.mask is None else _outlined(photo, maps.mask)),
        draw_overlay(photo, scale(maps.attention, 0.0, limits.gradcam_high)),
        draw_overlay(photo, scale(strangeness, limits.anomaly_low, limits.anomaly_high)),
    )


def _outlined(photo: NDArray[np.uint8], mask: Flags) -> NDArray[np.uint8]:
    """The photo with a thin line around the mask, far enough out to hide nothing of the defect."""
    around = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8))
    contours, _ = cv2.findContours(around, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(photo.copy(), contours, -1, _OUTLINE, 1), np.uint8)


PictureSource = Callable[[str], Pictures]
"""The pictures of a photo by its path in the document; asked only for what is shown."""


@dataclass(frozen=True)
class Gallery:
    title: str
    meaning: str
    shown: tuple[Row, ...]
    total: int


def write_report(document: Mapping[str, Any], folder: Path, pictures: PictureSource) -> Path:
    """Write folder/report.json (the document) and folder/index.html; returns the page's path.

    The document is that of `metrics.measure`, with `product` and the `photos` (rows,
    of which those seen in training are left out); what it says of bundle, data and
    versions is shown where it is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")
    page = folder / "index.html"
    page.write_text(render(document, pictures), encoding="utf-8")
    return page


def render(document: Mapping[str, Any], pictures: PictureSource) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("worker.train", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "decimal": decimal,
        "between": between,
        "percent_between": percent_between,
        # A number and its percent sign stay on one line.
        "unbroken": lambda text: text.replace(" %", "\u00a0%"),
        "words": lambda name: name.replace("_", " "),
        "picture": lambda jpeg: "data:image/jpeg;base64," + base64.b64encode(jpeg).decode(),
    }
    rows = [row for row in document["photos"] if not row["seen_in_training"]]
    return environment.get_template("report.html.jinja").render(
        document=document,
        figures=_plots(document, rows),
        thresholds=threshold_ranges(rows),
        galleries=galleries(rows),
        pictures=pictures,
    )


def galleries(rows: Sequence[Row]) -> list[Gallery]:
    """Which photos to look at: escapes, false alarms, then those that nearly went wrong."""

    def above(row: Row) -> float:
        return log_odds(row["defect_probability"]) - log_odds(
            row["thresholds"]["defect_probability"]
        )

    def margin(row: Row) -> float:
        """How far on the right side of the classifier's threshold; negative: on the wrong one."""
        return above(row) if row["label"] != GOOD else -above(row)

    escapes = [row for row in rows if row["label"] != GOOD and row["disposition"] == "pass"]
    alarms = [row for row in rows if row["label"] == GOOD and row["called_defective"]]
    others = [row for row in rows if row not in escapes and row not in alarms]
    return [
        Gallery(
            "Escapes",
            "Defective parts that would pass with nobody looking, the surest mistakes first.",
            tuple(sorted(escapes, key=margin)[:_MAX_MISTAKES]),
            len(escapes),
        ),
        Gallery(
            "False alarms",
            "Good parts that the classifier calls defective, the surest mistakes first.",
            tuple(sorted(alarms, key=margin)[:_MAX_MISTAKES]),
            len(alarms),
        ),
        Gallery(
            "Nearest misses",
            "Of all other photos those that came closest to a mistake of the classifier. A "
            "defective part that it called good is here if it was held all the same.",
            tuple(sorted(others, key=margin)[:_MAX_NEAREST]),
            len(others),
        ),
    ]


def threshold_ranges(rows: Sequence[Row]) -> dict[str, tuple[float, float]]:
    """Lowest and highest of each threshold: they differ where each fold has its own."""
    if not rows:
        return {}
    names = rows[0]["thresholds"]
    return {
        name: (
            min(row["thresholds"][name] for row in rows),
            max(row["thresholds"][name] for row in rows),
        )
        for name in names
    }


def percent(share: float | None) -> str:
    return _MISSING if share is None else f"{100 * share:.1f}\u00a0%"


def decimal(value: float | None, digits: int = 3) -> str:
    return _MISSING if value is None else f"{value:.{digits}f}"


def between(interval: Sequence[float] | None, digits: int = 3) -> str:
    """An interval of plain figures, 0.912 to 0.985."""
    if interval is None:
        return _MISSING
    return f"{interval[0]:.{digits}f}\u00a0to\u00a0{interval[1]:.{digits}f}"


def percent_between(interval: Sequence[float] | None) -> str:
    """An interval of shares, 91.2 to 98.5 %."""
    if interval is None:
        return _MISSING
    return f"{100 * interval[0]:.1f}\u00a0to\u00a0{100 * interval[1]:.1f}\u00a0%"


def _plots(document: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Markup]:
    drawn: dict[str, str] = {}
    if rows:
        drawn["probabilities"] = plots.probabilities(rows)
        drawn["anomaly_scores"] = plots.anomaly_scores(rows)
    if document["curves"] is not None:
        drawn["roc"] = plots.roc(document)
        drawn["precision_recall"] = plots.precision_recall(document)
        drawn["review"] = plots.review(document)
    if document["calibration"] is not None:
        drawn["reliability"] = plots.reliability(document)
    # Drawn by us from numbers: nothing in it comes from a file's name or a label.
    return {name: Markup(svg) for name, svg in drawn.items()}  # noqa: S704
