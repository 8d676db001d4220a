"""Exact binomial intervals: what a count of few says about all."""

LEVEL = 0.95

Interval = tuple[float, float]

TAIL = (1 - LEVEL) / 2


def exact(part: int, whole: int) -> Interval | None:
    """Clopper-Pearson interval of a share, two-sided at 95 %; None of nothing."""
    if whole == 0:
        return None
    # Here: most processes never ask, and it takes memory and time to load.
    from scipy.special import betaincinv  # noqa: PLC0415

    low = float(betaincinv(part, whole - part + 1, TAIL)) if part else 0.0
    high = float(betaincinv(part + 1, whole - part, 1 - TAIL)) if part < whole else 1.0
    return low, high
