"""The report's plots as inline SVG, drawn from the document alone.

Text stays text, so that it is set in the page's own typeface, is found by a
search and prints sharply.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from worker.train.judged import Floats, log_odds

GOOD = "#2f6690"
DEFECTIVE = "#d1603d"
CLASSIFIER = "#1b3a57"
AUTOENCODER = "#c08a1e"
_INK, _MUTED, _RULE = "#22282e", "#68727c", "#d5dade"

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "defectscope",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceff1",
    "grid.linewidth": 0.8,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}
_SQUARE = (3.9, 3.5)
_WIDE = (7.6, 3.2)
_BINS = 36
_PERCENT = PercentFormatter(1, decimals=0, symbol="\u00a0%")
_SHARES = (0.0001, 0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999, 0.9999)
"""Probabilities that stand at an axis of log-odds."""


def roc(document: Mapping[str, Any]) -> str:
    """ROC curves of both models, their operating points marked."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(_SQUARE)
        axes.plot([0, 1], [0, 1], color=_RULE, linewidth=1, linestyle=(0, (4, 3)))
        for name, colour in (("classifier", CLASSIFIER), ("autoencoder", AUTOENCODER)):
            curve, figures = document["curves"]["roc"][name], document[name]
            axes.plot(curve["false_alarm_rate"], curve["recall"], color=colour, label=name)
            axes.plot(figures["false_alarm_rate"], figures["recall"], "o", color=colour, ms=6)
        _unit_square(axes, "false alarms among good parts", "defects found (recall)")
        axes.legend(loc="lower right")
        return _svg(figure, "ROC curves of classifier and autoencoder")


def precision_recall(document: Mapping[str, Any]) -> str:
    """Precision against recall of both models."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(_SQUARE)
        share = document["defective"] / document["images"]
        axes.axhline(share, color=_RULE, linewidth=1, linestyle=(0, (4, 3)))
        for name, colour in (("classifier", CLASSIFIER), ("autoencoder", AUTOENCODER)):
            curve = document["curves"]["precision_recall"][name]
            axes.step(curve["recall"], curve["precision"], where="pre", color=colour, label=name)
        _unit_square(axes, "defects found (recall)", "defective among called (precision)")
        axes.legend(loc="lower left")
        return _svg(figure, "Precision against recall of classifier and autoencoder")


def reliability(document: Mapping[str, Any]) -> str:
    """Stated probability against the share that was defective, one dot a bin."""
    bins = document["calibration"]["bins"]
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(_SQUARE)
        axes.plot([0, 1], [0, 1], color=_RULE, linewidth=1, linestyle=(0, (4, 3)))
        stated = [b["mean_probability"] for b in bins]
        found = [b["defective_share"] for b in bins]
        axes.vlines(stated, stated, found, color=DEFECTIVE, linewidth=1.2, alpha=0.6)
        sizes = [12 + 2.2 * b["photos"] for b in bins]
        axes.scatter(stated, found, s=sizes, color=CLASSIFIER, zorder=3, clip_on=False)
        _unit_square(axes, "stated probability of a defect", "share that was defective")
        return _svg(figure, "Reliability diagram of the classifier's probability")


def review(document: Mapping[str, Any]) -> str:
    """Escapes against good parts held, for other settings; the present one marked."""
    curve = document["curves"]["review"]
    now = curve["operating_point"]
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(_WIDE)
        for name, colour, words in (
            ("anomaly", AUTOENCODER, "moving the autoencoder's threshold"),
            ("band", CLASSIFIER, "widening the classifier's review band"),
        ):
            points = curve[name]["good_held"], curve[name]["escapes"]
            axes.plot(*points, "o-", color=colour, markersize=2.5, label=words, clip_on=False)
        point = now["good_held"], now["escapes"]
        axes.plot(*point, "o", color=DEFECTIVE, ms=10, zorder=4, label="as it is set")
        axes.set_xlabel("good parts held for a person")
        axes.set_ylabel(f"defects that pass unseen (of {document['defective']})")
        axes.xaxis.set_major_formatter(_PERCENT)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.set_xlim(-0.01, 1.01)
        most = max(1, *curve["band"]["escapes"], *curve["anomaly"]["escapes"])
        axes.set_ylim(-0.03 * most, 1.06 * most)
        axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, columnspacing=1.6)
        return _svg(figure, "Escapes against review load")


def probabilities(rows: Sequence[Mapping[str, Any]]) -> str:
    """The classifier's probabilities of good and of defective photos, in log-odds."""

    values = np.array([log_odds(row["defect_probability"]) for row in rows])
    thresholds = {log_odds(row["thresholds"]["defect_probability"]) for row in rows}
    band = None
    if len(thresholds) == 1:
        limits = rows[0]["thresholds"]
        band = (log_odds(limits["near_threshold_low"]), log_odds(limits["near_threshold_high"]))
    with mpl.rc_context(_STYLE):
        figure, (upper, lower) = _two_rows()
        for axes in (upper, lower):
            if band and band[0] < band[1]:
                axes.axvspan(*band, color="#f3ead6", linewidth=0)
        _histograms(upper, lower, values, rows, thresholds)
        low, high = lower.get_xlim()
        shares = [share for share in _SHARES if low < log_odds(share) < high]
        lower.set_xticks(
            [log_odds(share) for share in shares], [f"{100 * share:g}\u00a0%" for share in shares]
        )
        lower.set_xlabel("probability of a defect")
        return _svg(figure, "Histogram of the classifier's probabilities")


def anomaly_scores(rows: Sequence[Mapping[str, Any]]) -> str:
    """The autoencoder's scores of good and of defective photos."""
    values = np.array([row["anomaly_score"] for row in rows])
    thresholds = {float(row["thresholds"]["anomaly_score"]) for row in rows}
    with mpl.rc_context(_STYLE):
        figure, (upper, lower) = _two_rows()
        if values.min() > 0 and values.max() > 20 * values.min():
            lower.set_xscale("log")
            lower.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        _histograms(upper, lower, values, rows, thresholds)
        lower.set_xlabel("anomaly score, standard deviations")
        return _svg(figure, "Histogram of the autoencoder's scores")


def _histograms(
    upper: Axes,
    lower: Axes,
    values: Floats,
    rows: Sequence[Mapping[str, Any]],
    thresholds: set[float],
) -> None:
    """Good above, defective below, on one scale: overlaid bars hide each other."""
    is_good = np.array([row["label"] == "good" for row in rows])
    low, high = min(values.min(), *thresholds), max(values.max(), *thresholds)
    if lower.get_xscale() == "log":
        edges = np.geomspace(low * 0.98, high * 1.02, _BINS + 1)
    else:
        margin = 0.02 * (high - low) or 1.0
        edges = np.linspace(low - margin, high + margin, _BINS + 1)
    for axes, chosen, colour, name in (
        (upper, is_good, GOOD, "good"),
        (lower, ~is_good, DEFECTIVE, "defective"),
    ):
        axes.hist(values[chosen], bins=list(edges), color=colour, rwidth=0.9)
        axes.set_ylabel(f"{name} ({int(chosen.sum())})")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4, min_n_ticks=1))
        axes.grid(visible=False, axis="x")
        for threshold in thresholds:
            axes.axvline(threshold, color=_INK, linewidth=1.1, linestyle=(0, (3, 2)))
    word = "threshold" if len(thresholds) == 1 else "thresholds"
    upper.annotate(
        word,
        (max(thresholds), 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        color=_MUTED,
    )


def _axes(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def _two_rows() -> tuple[Figure, tuple[Axes, Axes]]:
    figure = Figure(figsize=_WIDE, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    return figure, (upper, lower)


def _unit_square(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(_PERCENT)
    axes.yaxis.set_major_formatter(_PERCENT)


def _svg(figure: Figure, title: str) -> str:
    """The picture as an element of the page: no prolog, no metadata, as wide as its column."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    markup = buffer.getvalue()
    markup = markup[markup.index("<svg") :]
    opening, rest = markup.split(">", 1)
    # Only the viewBox stays: the width is the page's.
    opening = re.sub(r' (width|height|version)="[^"]*"', "", opening)
    # Several pictures in one page: what groups are called must not meet.
    rest = re.sub(r'<g id="(?![mp][0-9a-f]{10})[^"]*"', "<g", rest)
    return f'{opening} role="img" aria-label="{title}">{rest}'
