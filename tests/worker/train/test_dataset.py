from pathlib import Path

import cv2
import numpy as np
import pytest

from shared.errors import UnusableData
from worker.train.dataset import photo_files, read_dataset


def put(folder: Path, label: str, count: int, *, start: int = 0) -> list[Path]:
    """Write `count` photos, each of another grey pattern."""
    (folder / label).mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(start, start + count):
        rng = np.random.default_rng([number, *f"{folder.name}/{label}".encode()])
        path = folder / label / f"{number:03d}.png"
        cv2.imwrite(str(path), rng.integers(0, 255, (130, 130, 3), np.uint8))
        paths.append(path)
    return paths


@pytest.fixture
def data(tmp_path):
    put(tmp_path / "train", "good", 12)
    put(tmp_path / "test", "good", 4)
    put(tmp_path / "test", "scratched", 10)
    put(tmp_path / "test", "bent", 4)
    return tmp_path


def labels(photos):
    return sorted(photo.label for photo in photos)


def test_seven_tenths_of_each_defect_type_are_trained_on_and_the_rest_held_out(data):
    dataset = read_dataset(data, seed=0)
    assert labels(dataset.trained_on) == ["bent"] * 3 + ["good"] * 12 + ["scratched"] * 7
    assert labels(dataset.held_out) == ["bent"] + ["good"] * 4 + ["scratched"] * 3


def test_no_photo_is_on_both_sides(data):
    dataset = read_dataset(data, seed=0)
    trained_on = {photo.sha256 for photo in dataset.trained_on}
    assert trained_on.isdisjoint(photo.sha256 for photo in dataset.held_out)


def test_good_test_photos_are_never_trained_on(data):
    for seed in range(5):
        trained_on = read_dataset(data, seed=seed).trained_on
        assert not any(photo.split == "test" and photo.label == "good" for photo in trained_on)


def test_with_defects_under_train_nothing_of_test_is_trained_on(data):
    put(data / "train", "scratched", 6)
    dataset = read_dataset(data, seed=0)
    assert labels(dataset.trained_on) == ["good"] * 12 + ["scratched"] * 6
    assert len(dataset.held_out) == 18


def test_the_split_follows_content_and_seed_not_names(data):
    chosen = {photo.sha256 for photo in read_dataset(data, seed=3).trained_on}
    for number, path in enumerate(sorted((data / "test" / "scratched").iterdir(), reverse=True)):
        path.rename(path.with_name(f"renamed-{number:03d}.png"))
    assert {photo.sha256 for photo in read_dataset(data, seed=3).trained_on} == chosen
    assert {photo.sha256 for photo in read_dataset(data, seed=4).trained_on} != chosen


def test_a_folder_without_good_photos_is_refused_with_the_remedy(data):
    for path in (data / "train" / "good").iterdir():
        path.unlink()
    (data / "train" / "good").rmdir()
    with pytest.raises(UnusableData, match="train/good is missing: put photos of good parts"):
        read_dataset(data, seed=0)


def test_too_few_good_photos_are_counted(data):
    for path in sorted((data / "train" / "good").iterdir())[3:]:
        path.unlink()
    with pytest.raises(UnusableData, match="has 3 usable photos, at least 10 are needed"):
        read_dataset(data, seed=0)


def test_a_folder_without_defects_is_refused_with_the_remedy(tmp_path):
    put(tmp_path / "train", "good", 12)
    with pytest.raises(UnusableData, match=r"0 photos of defects.*add folders such as"):
        read_dataset(tmp_path, seed=0)


def test_unreadable_files_are_all_named_at_once(data):
    (data / "train" / "good" / "000.png").write_bytes(b"no picture")
    (data / "test" / "bent" / "001.png").write_bytes(b"")
    with pytest.raises(UnusableData) as raised:
        read_dataset(data, seed=0)
    assert "good/000.png" in str(raised.value)
    assert "bent/001.png" in str(raised.value)


def test_the_same_photo_in_train_and_test_is_refused_by_name(data):
    copy = data / "test" / "good" / "copy.png"
    copy.write_bytes((data / "train" / "good" / "005.png").read_bytes())
    with pytest.raises(UnusableData, match="in train and in test") as raised:
        read_dataset(data, seed=0)
    assert "good/005.png" in str(raised.value)
    assert "good/copy.png" in str(raised.value)


def test_a_photo_with_two_labels_is_refused_by_name(data):
    copy = data / "test" / "bent" / "copy.png"
    copy.write_bytes((data / "test" / "scratched" / "002.png").read_bytes())
    with pytest.raises(UnusableData, match="two labels") as raised:
        read_dataset(data, seed=0)
    assert "scratched/002.png" in str(raised.value)
    assert "bent/copy.png" in str(raised.value)


def test_copies_under_one_label_count_once_so_that_no_fold_leaks(data):
    for number in range(3):
        copy = data / "train" / "good" / f"copy{number}.png"
        copy.write_bytes((data / "train" / "good" / "005.png").read_bytes())
    dataset = read_dataset(data, seed=0)
    assert labels(dataset.trained_on).count("good") == 12


def test_an_empty_folder_is_told_which_layout_is_expected(tmp_path):
    with pytest.raises(UnusableData, match="layout of MVTec"):
        read_dataset(tmp_path, seed=0)


def test_masks_and_hidden_files_are_no_photos(data):
    put(data / "ground_truth", "bent", 4)
    (data / "train" / "good" / ".hidden.png").write_bytes(b"")
    (data / "train" / "good" / "notes.txt").write_text("x")
    assert len(photo_files(data, ("train", "test"))) == 30
    read_dataset(data, seed=0)


def test_progress_counts_every_file(data):
    heard = []
    read_dataset(data, seed=0, progress=lambda *report: heard.append(report))
    assert heard[-1] == ("reading photos", 30, 30)
