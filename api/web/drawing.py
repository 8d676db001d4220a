"""Numbers as the `d` of an SVG path: drawn by the server, so no script is needed."""

from collections.abc import Sequence

from api.web.curves import Points


def line(points: Points) -> str:
    """Through points of the unit square, in a square of 100 with (0, 0) at the lower left."""
    return "M" + " L".join(dict.fromkeys(_at(x, y) for x, y in points))


def steps(points: Points) -> str:
    """A precision-recall curve: precision holds for the whole step in recall that it ends."""
    recall = 0.0
    corners: Points = []
    for next_recall, precision in points:
        corners += [(recall, precision), (next_recall, precision)]
        recall = next_recall
    return line(corners)


def bars(counts: Sequence[int]) -> str:
    """As high as 100 for the most, side by side over a width of 1000."""
    most = max(counts, default=0) or 1
    width = 1000 / len(counts)
    return "".join(
        f"M{number * width:.1f} 100v{-max(100 * count / most, 4):.1f}h{width - 2:.1f}V100z"
        for number, count in enumerate(counts)
        if count
    )


def _at(x: float, y: float) -> str:
    return f"{100 * x:.1f} {100 - 100 * y:.1f}"
