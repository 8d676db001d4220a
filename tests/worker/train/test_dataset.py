import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from shared.errors import UnusableData
from worker.train.dataset import photo_files, read_dataset


def put(
    folder: Path, label: str, count: int, *, start: int = 0, size: tuple[int, int] = (130, 130)
) -> list[Path]:
    """Write `count` photos of (height, width), each of another grey pattern."""
    (folder / label).mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(start, start + count):
        rng = np.random.default_rng([number, *f"{folder.name}/{label}".encode()])
        path = folder / label / f"{number:03d}.png"
        cv2.imwrite(str(path), rng.integers(0, 255, (*size, 3), np.uint8))
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
    with pytest.raises(UnusableData, match="has 3 usable photos of different parts, at least 10"):
        read_dataset(data, seed=0)


def test_good_photos_alone_can_be_trained_on(tmp_path):
    put(tmp_path / "train", "good", 12)
    put(tmp_path / "test", "good", 3)
    dataset = read_dataset(tmp_path, seed=0)
    assert labels(dataset.trained_on) == ["good"] * 12
    assert labels(dataset.held_out) == ["good"] * 3


def test_a_handful_of_defects_is_used(tmp_path):
    put(tmp_path / "train", "good", 12)
    put(tmp_path / "train", "bent", 1)
    assert labels(read_dataset(tmp_path, seed=0).trained_on) == ["bent"] + ["good"] * 12


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
    (warning,) = dataset.warnings
    assert "3 of 33 files are copies of others" in warning
    assert "good/copy2.png" in warning


def test_an_empty_folder_is_told_which_layout_is_expected(tmp_path):
    with pytest.raises(UnusableData, match="layout of MVTec"):
        read_dataset(tmp_path, seed=0)


def test_a_hidden_folder_is_no_defect_type(data):
    put(data / "test", ".cache", 6)

    assert labels(read_dataset(data, seed=0, hold_out=False).trained_on).count(".cache") == 0


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


def refusal(data, **options) -> str:
    with pytest.raises(UnusableData) as raised:
        read_dataset(data, seed=0, **options)
    return str(raised.value)


def put_again(original: Path, copy: Path) -> None:
    """The same photo, encoded again as a poor JPEG."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(copy), cv2.imread(str(original)), [cv2.IMWRITE_JPEG_QUALITY, 60])


def group_of(dataset, path: Path) -> int:
    (group,) = {p.group for p in (*dataset.trained_on, *dataset.held_out) if p.path == path}
    return group


def test_all_problems_are_named_in_one_refusal(data):
    put(data, "train", 1)
    put(data / "test" / "bent", "deeper", 1)
    (data / "test" / "crushed").mkdir()
    put(data / "train", "Good", 1)
    (data / "train" / "good" / "000.png").write_bytes(b"no picture")
    put(data / "test", "wide", 1, size=(130, 200))
    message = refusal(data)
    for problem in (
        "no label's folder: " + str(data / "train" / "000.png"),
        "Move them up into it",
        "test/crushed has no photos",
        "train/Good would be taken for a type of defect",
        "good/000.png cannot be used",
        f"200 x 130 pixels: 1 files ({data / 'test' / 'wide' / '000.png'})",
    ):
        assert problem in message
    assert message.count("\n- ") == 6


def test_photos_in_no_labels_folder_alone_are_explained(tmp_path):
    put(tmp_path, "train", 3)
    message = refusal(tmp_path)
    assert "no label's folder" in message
    assert "layout of MVTec" in message


def test_files_of_other_kinds_are_left_out_and_named(data):
    (data / "train" / "good" / "a.bmp").write_bytes(b"BM")
    (data / "train" / "good" / ".DS_Store").write_bytes(b"")
    (warning,) = read_dataset(data, seed=0).warnings
    assert "1 files are no .png, .jpg or .jpeg" in warning
    assert "good/a.bmp" in warning


def test_other_resolutions_of_one_shape_are_only_mentioned(data):
    put(data / "train", "good", 2, start=50, size=(260, 260))
    (warning,) = read_dataset(data, seed=0).warnings
    assert "photos of 2 sizes" in warning
    assert "260 x 260 pixels: 2 files" in warning
    assert "good/051.png" in warning


def test_an_orderly_folder_has_no_warnings(data):
    assert read_dataset(data, seed=0).warnings == ()


def test_a_photo_encoded_again_on_the_other_side_is_refused_by_name(data):
    original = data / "train" / "good" / "005.png"
    copy = data / "test" / "good" / "renamed.jpg"
    put_again(original, copy)
    message = refusal(data)
    assert "train and test that show the same part" in message
    assert f"{original} and {copy}" in message or f"{copy} and {original}" in message


def test_photos_of_one_part_are_one_group_and_others_are_not(data):
    original = data / "train" / "good" / "005.png"
    copies = [original.with_name(f"again{number}.jpg") for number in range(2)]
    for copy in copies:
        put_again(original, copy)
        original = copy
    dataset = read_dataset(data, seed=0)
    first, *others = (group_of(dataset, path) for path in (*copies, copies[0].with_name("005.png")))
    assert others == [first, first]
    assert len({photo.group for photo in dataset.trained_on}) == 12 + 10


def test_frames_of_one_part_do_not_count_as_parts(tmp_path):
    paths = put(tmp_path / "train", "good", 9)
    put_again(paths[0], paths[0].with_name("again.jpg"))
    assert "has 9 usable photos of different parts" in refusal(tmp_path)


@pytest.mark.parametrize("seed", range(6))
def test_photos_of_one_defective_part_are_on_one_side(data, seed):
    originals = sorted((data / "test" / "scratched").iterdir())[:4]
    for original in originals:
        put_again(original, original.with_name(f"again-{original.stem}.jpg"))
    dataset = read_dataset(data, seed=seed)
    trained_on = {photo.group for photo in dataset.trained_on}
    assert trained_on.isdisjoint(photo.group for photo in dataset.held_out)
    assert "scratched" in labels(dataset.held_out)


@pytest.mark.parametrize("seed", range(6))
def test_a_defect_beside_a_held_out_good_photo_of_the_part_is_held_out(data, seed):
    before = data / "test" / "good" / "001.png"
    after = data / "test" / "scratched" / "after.jpg"
    put_again(before, after)
    dataset = read_dataset(data, seed=seed)
    assert after in [photo.path for photo in dataset.held_out]
    assert "Check their labels" in dataset.warnings[0]
    assert str(after) in dataset.warnings[0]


def test_without_holding_out_everything_is_trained_on_and_copies_share_a_group(data):
    original = data / "train" / "good" / "005.png"
    copy = data / "test" / "good" / "renamed.jpg"
    put_again(original, copy)
    dataset = read_dataset(data, seed=0, hold_out=False)
    assert labels(dataset.trained_on) == ["bent"] * 4 + ["good"] * 17 + ["scratched"] * 10
    assert dataset.held_out == ()
    assert group_of(dataset, original) == group_of(dataset, copy)


def test_groups_follow_content_not_names(data):
    def groups():
        return {p.sha256: p.group for p in read_dataset(data, seed=0).trained_on}

    before = groups()
    for number, path in enumerate(sorted((data / "train" / "good").iterdir(), reverse=True)):
        path.rename(path.with_name(f"renamed-{number:03d}.png"))
    assert groups() == before


def test_all_that_was_decided_since_is_trained_on_beside_the_split_of_the_first(data, tmp_path):
    later = tmp_path / "later"
    put(later / "train", "good", 3, start=60)
    put(later / "train", "other", 2)
    put(later / "test", "bent", 2, start=50)
    alone = read_dataset(data, seed=0)

    dataset = read_dataset(data, more=[later], seed=0)

    added = ["bent"] * 2 + ["good"] * 3 + ["other"] * 2
    assert labels(dataset.trained_on) == sorted(labels(alone.trained_on) + added)
    assert [p.path for p in dataset.held_out] == [p.path for p in alone.held_out]


def test_a_photo_that_was_decided_anew_has_its_last_label_and_counts_once(data, tmp_path):
    later, latest = tmp_path / "later", tmp_path / "latest"
    (copied,) = put(data / "train", "good", 1, start=90)
    for folder, label in ((later, "other"), (latest, "scratched")):
        (folder / "train" / label).mkdir(parents=True)
        (folder / "train" / label / "again.png").write_bytes(copied.read_bytes())

    dataset = read_dataset(data, more=[later, latest], seed=0)

    (photo,) = [photo for photo in dataset.trained_on if photo.path.name == "again.png"]
    assert photo.label == "scratched"
    assert labels(dataset.trained_on).count("good") == 12
    assert any("decided otherwise since" in warning for warning in dataset.warnings)


def test_a_held_out_photo_that_was_decided_since_is_trained_on_instead(data, tmp_path):
    held_out = next(p for p in read_dataset(data, seed=0).held_out if p.label == "good")
    later = tmp_path / "later"
    (later / "train" / "good").mkdir(parents=True)
    (later / "train" / "good" / "again.png").write_bytes(held_out.path.read_bytes())

    dataset = read_dataset(data, more=[later], seed=0)

    assert held_out.sha256 in {photo.sha256 for photo in dataset.trained_on}
    assert held_out.sha256 not in {photo.sha256 for photo in dataset.held_out}


@pytest.mark.parametrize("name", [b"kr\xe4tzer/1.png", b"scratched/kr\xe4tzer.png"])
def test_names_that_nobody_can_write_down_are_named_before_the_training(data, name):
    path = Path(os.fsdecode(os.fsencode(data / "test") + b"/" + name))
    path.parent.mkdir(exist_ok=True)
    next((data / "test" / "bent").glob("*.png")).rename(path)
    with pytest.raises(UnusableData, match=r"not in UTF-8.*kr\\udce4tzer") as raised:
        read_dataset(data, seed=0)
    str(raised.value).encode()
