"""Folders in MVTec layout, and which of their photos a model may see.

train/good, train/<defect>, test/good, test/<defect>. All that is wrong with a
folder is named before any training starts. The rule that nobody may break: what
is held out is seen by neither training nor calibration, nor is another photo of
the same part.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from shared.errors import DefectScopeError, UnusableData
from worker.inspect.decode import decode
from worker.inspect.preprocess import Photo, shrink
from worker.train.checks import Findings, check_sizes, named
from worker.train.duplicates import near_duplicates_within
from worker.train.progress import Progress, silent

GOOD = "good"
TRAIN, TEST = SPLITS = ("train", "test")
MORE = "more"
"""The split of photos that were decided since."""
SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})

MIN_GOOD = 10


@dataclass(frozen=True)
class LabelledPhoto:
    path: Path
    split: str
    label: str
    """`good`, or the type of defect."""
    sha256: str
    photo: Photo
    group: int
    """The same for all photos of one part: they are never on two sides of a split or fold."""

    @property
    def is_defective(self) -> bool:
        return self.label != GOOD


@dataclass(frozen=True)
class Dataset:
    trained_on: tuple[LabelledPhoto, ...]
    held_out: tuple[LabelledPhoto, ...]
    warnings: tuple[str, ...]
    """What is odd about the folder, but no reason not to train: sentences for a person."""


def read_dataset(
    data: Path,
    *,
    more: Sequence[Path] = (),
    seed: int,
    defect_share: float = 0.7,
    hold_out: bool = True,
    progress: Progress = silent,
) -> Dataset:
    """Read the folder, check it, and split it.

    Trained on: all of train/. If that has no defects, a share of every defect
    type under test/ as well, chosen by the photos' content and the seed. The
    rest of test/, and all of test/good, is held out. Without `hold_out` all
    photos of both are trained on. There may be no defects at all.

    `more`: folders of photos that people decided since, as `defectscope export` writes them; all
    of them are trained on. The same photo in several folders counts once, as the last one has it.
    Raises UnusableData that names every problem with its files and its remedy.
    """
    findings = Findings()
    files: list[tuple[str, str, Path]] = []
    for folder in (data, *more):
        check_layout(folder, findings)
        _check_labels(folder, findings)
        found = _find(folder, SPLITS)
        if not found:
            findings.problems.append(_no_photos(folder, SPLITS))
        is_first = folder is data
        files += [(part if is_first else MORE, label, path) for part, label, path in found]
    photos, sizes = _read(files, findings, progress)
    photos = _decided_last(photos, (data, *more), findings)
    check_sizes(sizes, findings)
    _check_copies(photos, findings, may_cross=not hold_out)
    photos = _without_copies(photos)
    photos = _group(photos, findings, progress=progress, may_cross=not hold_out)
    if hold_out:
        dataset = split(photos, seed=seed, defect_share=defect_share)
    else:
        dataset = Dataset(_in_order(photos), (), ())
    if files:
        _check_enough(data, dataset, findings)
    if findings.problems:
        raise UnusableData(
            f"{data} cannot be trained on:\n" + "\n".join(f"- {p}" for p in findings.problems)
        )
    return replace(dataset, warnings=tuple(findings.warnings))


def photo_files(data: Path, splits: Iterable[str]) -> list[tuple[str, str, Path]]:
    """(split, label, path) of every photo of these splits, sorted.

    Raises UnusableData if the folder has none.
    """
    splits = tuple(splits)
    found = _find(data, splits)
    if not found:
        raise UnusableData(_no_photos(data, splits))
    return found


def split(photos: Sequence[LabelledPhoto], *, seed: int, defect_share: float) -> Dataset:
    """What is trained on and what is held out; see `read_dataset` for the rule.

    Photos of one part stay together: beside a good photo of test/ they are held out.
    """
    trained_on = [photo for photo in photos if photo.split != TEST]
    test = [photo for photo in photos if photo.split == TEST]
    if not any(photo.is_defective for photo in trained_on if photo.split == TRAIN):
        chosen = _choose_defects(test, seed=seed, defect_share=defect_share)
        trained_on += [photo for photo in test if photo.group in chosen]
    seen = {photo.sha256 for photo in trained_on}
    held_out = tuple(photo for photo in test if photo.sha256 not in seen)
    return Dataset(_in_order(trained_on), held_out, ())


def _choose_defects(
    test: Sequence[LabelledPhoto], *, seed: int, defect_share: float
) -> frozenset[int]:
    """The groups that are trained on: of each defect type its share, never all of several."""
    kept_apart = {photo.group for photo in test if not photo.is_defective}
    by_type: dict[str, list[LabelledPhoto]] = defaultdict(list)
    for photo in test:
        if photo.is_defective:
            by_type[photo.label].append(photo)
    chosen: set[int] = set()
    for of_type in by_type.values():
        # Shuffled by content and seed: neither names nor the file system's order matter.
        of_type.sort(key=lambda p: hashlib.sha256(f"{seed} {p.sha256}".encode()).digest())
        groups = list(dict.fromkeys(photo.group for photo in of_type))
        free = [group for group in groups if group not in kept_apart]
        wanted = max(1, round(defect_share * len(of_type)))
        if len(free) == len(groups) > 1:
            free.pop()  # one is for measuring
        for group in free:
            if sum(photo.group in chosen for photo in of_type) >= wanted:
                break
            chosen.add(group)
    return frozenset(chosen)


def _in_order(photos: Iterable[LabelledPhoto]) -> tuple[LabelledPhoto, ...]:
    return tuple(sorted(photos, key=lambda p: (p.label != GOOD, p.label, p.sha256)))


def is_photo(path: Path) -> bool:
    """By its name: a hidden file is none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _find(data: Path, splits: Iterable[str]) -> list[tuple[str, str, Path]]:
    return [
        (split_name, path.parent.name, path)
        for split_name in splits
        for path in sorted((data / split_name).glob("*/*"))
        if is_photo(path) and not path.parent.name.startswith(".")
    ]


def _no_photos(data: Path, splits: Iterable[str]) -> str:
    places = " or ".join(f"{split_name}/<label>/" for split_name in splits)
    return (
        f"{data} has no photos under {places}. Expected is the layout of MVTec: train/good/, "
        "test/good/ and a folder for each defect type, with .png or .jpg files."
    )


def check_layout(data: Path, findings: Findings, splits: Iterable[str] = SPLITS) -> None:
    """Files that lie where no photo is looked for, or whose names are no text."""
    unlabelled: list[Path] = []
    too_deep: list[Path] = []
    ignored: list[Path] = []
    misnamed: list[str] = []
    for root in (data / split_name for split_name in splits):
        for path in sorted(root.rglob("*")):
            depth = len(path.relative_to(root).parts)
            if path.name.startswith("."):
                continue
            if not _is_utf8(path.name):
                misnamed.append(ascii(str(path)))
            elif path.is_dir():
                continue
            elif not is_photo(path):
                ignored.append(path)
            elif depth != 2:
                (unlabelled if depth == 1 else too_deep).append(path)
    if misnamed:
        findings.problems.append(
            f"names that are not in UTF-8, and could stand in no report: {named(misnamed)}. Rename "
            "them."
        )
    if unlabelled:
        findings.problems.append(
            f"photos that lie in no label's folder: {named(unlabelled)}. Move them to good/ or to "
            "the folder of their defect type."
        )
    if too_deep:
        findings.problems.append(
            f"photos in folders within a label's folder: {named(too_deep)}. Move them up into it."
        )
    if ignored:
        findings.warnings.append(
            f"{len(ignored)} files are no .png, .jpg or .jpeg and were left out: {named(ignored)}."
        )


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_labels(data: Path, findings: Findings) -> None:
    """Labels without photos, and good ones that would be taken for a type of defect."""
    for folder in (path for split in SPLITS for path in sorted((data / split).glob("*/"))):
        if folder.name.startswith("."):
            continue
        if not any(is_photo(path) for path in folder.rglob("*")):
            findings.problems.append(
                f"{folder} has no photos: put .png or .jpg files there, or remove the folder."
            )
        if folder.name != GOOD and folder.name.lower() == GOOD:
            findings.problems.append(
                f"{folder} would be taken for a type of defect: name it {GOOD}."
            )


def _read(
    files: Sequence[tuple[str, str, Path]], findings: Findings, progress: Progress
) -> tuple[list[LabelledPhoto], dict[Path, tuple[int, int]]]:
    """The photos, each in a group of its own, and their sizes as (width, height)."""
    photos: list[LabelledPhoto] = []
    sizes: dict[Path, tuple[int, int]] = {}

    def read(file: tuple[str, str, Path]) -> tuple[LabelledPhoto, tuple[int, int]] | str:
        split_name, label, path = file
        try:
            data = path.read_bytes()
            rgb = decode(data)
        except (DefectScopeError, OSError) as error:
            return f"{path} cannot be used: {error} Repair or remove it."
        sha256 = "sha256:" + hashlib.sha256(data).hexdigest()
        photo = LabelledPhoto(path, split_name, label, sha256, shrink(rgb), group=-1)
        return photo, (rgb.shape[1], rgb.shape[0])

    with ThreadPoolExecutor(max_workers=4) as pool:
        for number, outcome in enumerate(pool.map(read, files), start=1):
            if isinstance(outcome, str):
                findings.problems.append(outcome)
            else:
                photo, sizes[outcome[0].path] = outcome
                photos.append(photo)
            progress("reading photos", number, len(files))
    return photos, sizes


def _decided_last(
    photos: Sequence[LabelledPhoto], folders: Sequence[Path], findings: Findings
) -> list[LabelledPhoto]:
    """Of the same photo in several folders, that of the last one."""
    place = {folder: number for number, folder in enumerate(folders)}
    last: dict[str, int] = {}
    for photo in photos:
        here = place[photo.path.parents[2]]
        last[photo.sha256] = max(here, last.get(photo.sha256, here))
    kept = [photo for photo in photos if place[photo.path.parents[2]] == last[photo.sha256]]
    label_of = {photo.sha256: photo.label for photo in kept}
    relabelled = [
        f"{photo.path} is now {label_of[photo.sha256]}"
        for photo in photos
        if photo.label != label_of[photo.sha256]
        and place[photo.path.parents[2]] != last[photo.sha256]
    ]
    if relabelled:
        findings.warnings.append(
            f"{len(relabelled)} photos were decided otherwise since: {named(relabelled, '; ')}."
        )
    return kept


def _check_copies(photos: Sequence[LabelledPhoto], findings: Findings, *, may_cross: bool) -> None:
    """Photos with the same content in both splits, or under two labels."""
    by_content: dict[str, list[LabelledPhoto]] = defaultdict(list)
    for photo in photos:
        by_content[photo.sha256].append(photo)
    copies: list[Path] = []
    for same in by_content.values():
        paths = ", ".join(str(photo.path) for photo in same)
        if len({photo.label for photo in same}) > 1:
            findings.problems.append(f"the same photo has two labels: {paths}. Keep the right one.")
        elif len({photo.split == TEST for photo in same}) > 1 and not may_cross:
            findings.problems.append(
                f"the same photo is in train and in test: {paths}. Remove one, or what is "
                "measured on test means nothing."
            )
        else:
            copies += [photo.path for photo in same[1:]]
    if copies:
        findings.warnings.append(
            f"{len(copies)} of {len(photos)} files are copies of others, byte for byte, and count "
            f"once: {named(copies)}."
        )


def _without_copies(photos: Sequence[LabelledPhoto]) -> list[LabelledPhoto]:
    """One of each content: a copy in another fold would be a leak."""
    return list({photo.sha256: photo for photo in reversed(photos)}.values())[::-1]


def _group(
    photos: Sequence[LabelledPhoto], findings: Findings, *, progress: Progress, may_cross: bool
) -> list[LabelledPhoto]:
    """Number the groups; report parts that are in both splits or under two labels."""
    # By content, so that neither names nor the file system's order matter.
    photos = sorted(photos, key=lambda photo: photo.sha256)
    first_of = list(range(len(photos)))
    crossing: list[str] = []
    relabelled: list[str] = []
    for i, j in near_duplicates_within([p.photo.pixels for p in photos], progress=progress):
        joined, into = max(first_of[i], first_of[j]), min(first_of[i], first_of[j])
        first_of = [into if first == joined else first for first in first_of]
        pair = f"{photos[i].path} and {photos[j].path}"
        if (photos[i].split == TEST) != (photos[j].split == TEST) and not may_cross:
            crossing.append(pair)
        elif photos[i].label != photos[j].label:
            relabelled.append(pair)
    if crossing:
        findings.problems.append(
            f"photos of train and test that show the same part, nearly the same: "
            f"{named(crossing, '; ')}. Remove one of each, or what is measured on test means "
            "nothing."
        )
    if relabelled:
        findings.warnings.append(
            f"photos with two labels that show the same part, nearly the same: "
            f"{named(relabelled, '; ')}. Check their labels."
        )
    return [replace(photo, group=first) for photo, first in zip(photos, first_of, strict=True)]


def _check_enough(data: Path, dataset: Dataset, findings: Findings) -> None:
    good = data / "train" / GOOD
    if not good.is_dir():
        findings.problems.append(f"{good} is missing: put photos of good parts there.")
        return
    parts = len({photo.group for photo in dataset.trained_on if not photo.is_defective})
    if parts < MIN_GOOD:
        findings.problems.append(
            f"{good} has {parts} usable photos of different parts, at least {MIN_GOOD} are needed: "
            "add photos of good parts."
        )
