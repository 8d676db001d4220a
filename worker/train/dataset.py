"""Folders in MVTec layout, and which of their photos a model may see.

train/good, train/<defect>, test/good, test/<defect>. All that is wrong with a
folder is named before any training starts. The rule that nobody may break: what
is held out is seen by neither training nor calibration.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from shared.errors import DefectScopeError, UnusableData
from worker.inspect.preprocess import Photo, prepare
from worker.train.progress import Progress, silent

GOOD = "good"
SPLITS = ("train", "test")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})

MIN_GOOD = 10
MIN_DEFECTS = 5
"""Fewer cannot be split into the folds that calibration needs."""

_NAMED = 10


@dataclass(frozen=True)
class LabelledPhoto:
    path: Path
    split: str
    label: str
    """`good`, or the type of defect."""
    sha256: str
    photo: Photo

    @property
    def is_defective(self) -> bool:
        return self.label != GOOD


@dataclass(frozen=True)
class Dataset:
    trained_on: tuple[LabelledPhoto, ...]
    held_out: tuple[LabelledPhoto, ...]


def read_dataset(
    data: Path, *, seed: int, defect_share: float = 0.7, progress: Progress = silent
) -> Dataset:
    """Read the folder, check it, and split it.

    Trained on: all of train/. If that has no defects, a share of every defect
    type under test/ as well, chosen by the photos' content and the seed. The
    rest of test/, and all of test/good, is held out.
    Raises UnusableData that names every problem with its files and its remedy.
    """
    files = photo_files(data, SPLITS)
    photos, problems = _read(files, progress)
    problems += _contradictions(photos)
    photos = _without_copies(photos)
    dataset = split(photos, seed=seed, defect_share=defect_share)
    problems += _shortages(data, dataset)
    if problems:
        raise UnusableData(
            f"{data} cannot be trained on:\n" + "\n".join(f"- {p}" for p in problems)
        )
    return dataset


def photo_files(data: Path, splits: Iterable[str]) -> list[tuple[str, str, Path]]:
    """(split, label, path) of every photo of these splits, sorted.

    Raises UnusableData if the folder has none.
    """
    found = [
        (split_name, path.parent.name, path)
        for split_name in splits
        for path in sorted((data / split_name).glob("*/*"))
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    if not found:
        places = " or ".join(f"{split_name}/<label>/" for split_name in splits)
        raise UnusableData(
            f"{data} has no photos under {places}. Expected is the layout of MVTec: train/good/, "
            "test/good/ and a folder for each defect type, with .png or .jpg files."
        )
    return found


def split(photos: Sequence[LabelledPhoto], *, seed: int, defect_share: float) -> Dataset:
    """What is trained on and what is held out; see `read_dataset` for the rule."""
    trained_on = [photo for photo in photos if photo.split == "train"]
    test = [photo for photo in photos if photo.split == "test"]
    if not any(photo.is_defective for photo in trained_on):
        by_type: dict[str, list[LabelledPhoto]] = defaultdict(list)
        for photo in test:
            if photo.is_defective:
                by_type[photo.label].append(photo)
        for of_type in by_type.values():
            # Shuffled by content and seed: neither names nor the file system's order matter.
            of_type.sort(key=lambda p: hashlib.sha256(f"{seed} {p.sha256}".encode()).digest())
            wanted = max(1, round(defect_share * len(of_type)))
            trained_on += of_type[: min(wanted, max(1, len(of_type) - 1))]
    chosen = {photo.sha256 for photo in trained_on}
    trained_on.sort(key=lambda photo: (photo.label != GOOD, photo.label, photo.sha256))
    return Dataset(tuple(trained_on), tuple(p for p in test if p.sha256 not in chosen))


def _read(
    files: Sequence[tuple[str, str, Path]], progress: Progress
) -> tuple[list[LabelledPhoto], list[str]]:
    photos: list[LabelledPhoto] = []
    unreadable: list[str] = []

    def read(file: tuple[str, str, Path]) -> LabelledPhoto | str:
        split_name, label, path = file
        try:
            data = path.read_bytes()
            sha256 = "sha256:" + hashlib.sha256(data).hexdigest()
            return LabelledPhoto(path, split_name, label, sha256, prepare(data))
        except (DefectScopeError, OSError) as error:
            return f"{path} cannot be used: {error}. Repair or remove it."

    with ThreadPoolExecutor(max_workers=4) as pool:
        for number, outcome in enumerate(pool.map(read, files), start=1):
            (unreadable if isinstance(outcome, str) else photos).append(outcome)  # type: ignore[arg-type]
            progress("reading photos", number, len(files))
    return photos, unreadable


def _contradictions(photos: Sequence[LabelledPhoto]) -> list[str]:
    """Photos with the same content in both splits, or under two labels."""
    by_content: dict[str, list[LabelledPhoto]] = defaultdict(list)
    for photo in photos:
        by_content[photo.sha256].append(photo)
    problems: list[str] = []
    for copies in by_content.values():
        paths = ", ".join(str(copy.path) for copy in copies)
        if len({copy.label for copy in copies}) > 1:
            problems.append(f"the same photo has two labels: {paths}. Keep the right one.")
        elif len({copy.split for copy in copies}) > 1:
            problems.append(
                f"the same photo is in train and in test: {paths}. Remove one, or what is "
                "measured on test means nothing."
            )
    return problems


def _without_copies(photos: Sequence[LabelledPhoto]) -> list[LabelledPhoto]:
    """One of each content: a copy in another fold would be a leak."""
    return list({photo.sha256: photo for photo in reversed(photos)}.values())[::-1]


def _shortages(data: Path, dataset: Dataset) -> list[str]:
    counts = Counter(photo.is_defective for photo in dataset.trained_on)
    problems: list[str] = []
    if not (data / "train" / GOOD).is_dir():
        problems.append(f"{data / 'train' / GOOD} is missing: put photos of good parts there.")
    elif counts[False] < MIN_GOOD:
        problems.append(
            f"{data / 'train' / GOOD} has {counts[False]} usable photos, at least {MIN_GOOD} "
            "are needed: add photos of good parts."
        )
    if counts[True] < MIN_DEFECTS:
        named = [str(p.path) for p in dataset.trained_on if p.is_defective][:_NAMED]
        problems.append(
            f"there are {counts[True]} photos of defects to train on ({', '.join(named) or 'none'})"
            f", at least {MIN_DEFECTS} are needed: add folders such as "
            f"{data / 'train' / 'scratched'} or {data / 'test' / 'scratched'}."
        )
    return problems
