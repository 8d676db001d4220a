"""What a person is told of a training folder, and which sizes of photos go together."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

MAX_STRETCH = 1.05
"""The models see a square: of a round part, a wider photo would make another ellipse."""

_SAME_SHAPE = 1.01


@dataclass(frozen=True)
class Findings:
    """Sentences for a person, each with its files."""

    problems: list[str] = field(default_factory=list)
    """Training is refused; each says what to do."""
    warnings: list[str] = field(default_factory=list)


def named(things: Iterable[object], separator: str = ", ", *, at_most: int = 10) -> str:
    """The first few, and how many more there are."""
    names = [str(thing) for thing in things]
    more = f"{separator}and {len(names) - at_most} more" if len(names) > at_most else ""
    return separator.join(names[:at_most]) + more


def check_sizes(sizes: Mapping[Path, tuple[int, int]], findings: Findings) -> None:
    """A problem where shapes differ, a warning where only resolutions do.

    sizes: (width, height) of each photo in pixels.
    """
    if len(set(sizes.values())) < 2:
        return
    aspects = [width / height for width, height in sizes.values()]
    if max(aspects) > MAX_STRETCH * min(aspects):
        groups = named((_described(shape, sizes) for shape in _shapes(sizes)), "; ")
        findings.problems.append(
            f"photos of different shapes, which would be stretched differently: {groups}. Cut or "
            "turn them to one shape, or train a product for each."
        )
        return
    by_size: dict[tuple[int, int], list[Path]] = defaultdict(list)
    for path, size in sizes.items():
        by_size[size].append(path)
    groups = named((_described(paths, sizes) for paths in _largest_first(by_size.values())), "; ")
    findings.warnings.append(
        f"photos of {len(by_size)} sizes: {groups}. Best are photos as the camera will take them: "
        "what was enlarged looks blurred."
    )


def _shapes(sizes: Mapping[Path, tuple[int, int]]) -> list[list[Path]]:
    """Photos of one aspect ratio together, the most common first."""
    shapes: list[list[Path]] = []
    last = 0.0
    for aspect, path in sorted((width / height, path) for path, (width, height) in sizes.items()):
        if aspect > last * _SAME_SHAPE:
            shapes.append([])
        shapes[-1].append(path)
        last = aspect
    return _largest_first(shapes)


def _largest_first(groups: Iterable[list[Path]]) -> list[list[Path]]:
    return sorted(groups, key=len, reverse=True)


def _described(paths: list[Path], sizes: Mapping[Path, tuple[int, int]]) -> str:
    width, height = sizes[paths[0]]
    alike = "" if len({sizes[path] for path in paths}) == 1 else " and alike"
    return f"{width} x {height} pixels{alike}: {len(paths)} files ({named(paths, at_most=3)})"
