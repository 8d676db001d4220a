import pytest

from deploy.photos import find_photos
from shared.errors import InvalidInput


@pytest.fixture
def folder(tmp_path):
    for name in ("a/1.png", "a/2.JPG", "a/notes.txt", "b/3.jpeg", "odd.bin"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def names(paths, folder):
    return [str(path.relative_to(folder)) for path in paths]


def test_folders_are_searched_for_photos_by_suffix(folder):
    assert names(find_photos([str(folder)]), folder) == ["a/1.png", "a/2.JPG", "b/3.jpeg"]


def test_a_named_file_is_taken_whatever_its_suffix(folder):
    assert names(find_photos([str(folder / "odd.bin")]), folder) == ["odd.bin"]


def test_globs_are_expanded_and_nothing_comes_twice(folder):
    found = find_photos([f"{folder}/a/*.png", str(folder / "a")])

    assert names(found, folder) == ["a/1.png", "a/2.JPG"]


def test_a_path_that_leads_nowhere_is_an_error(folder):
    with pytest.raises(InvalidInput, match="nothing at"):
        find_photos([str(folder / "missing")])


def test_a_folder_without_photos_is_an_error(folder):
    (folder / "empty").mkdir()
    with pytest.raises(InvalidInput, match=r"no \.jpg or \.png"):
        find_photos([str(folder / "empty")])
