import cv2
import pytest

from shared.errors import NotAnImage, UnreadableImage
from worker.inspect.files import judge_files, open_bundle
from worker.inspect.pipeline import Judgement


@pytest.fixture
def opened(tmp_path, write_test_bundle):
    write_test_bundle(tmp_path / "bottle")
    return open_bundle(tmp_path / "bottle")


def test_files_are_judged_in_order_and_what_cannot_be_read_comes_with_the_reason(
    tmp_path, photos, opened
):
    good = [tmp_path / f"{number}.png" for number in range(2)]
    for path, photo in zip(good, photos, strict=False):
        cv2.imwrite(str(path), photo.pixels[..., ::-1])
    text = tmp_path / "text.png"
    text.write_text("hello")
    paths = [good[0], text, tmp_path / "missing.png", good[1]]

    outcomes = list(judge_files(*opened, paths))

    assert [path for path, _ in outcomes] == paths
    kinds = [type(outcome) for _, outcome in outcomes]
    assert kinds == [Judgement, NotAnImage, UnreadableImage, Judgement]
    assert (outcomes[0][1].photo == photos[0].pixels).all()
    assert (outcomes[3][1].photo == photos[1].pixels).all()


def test_no_files_give_nothing(opened):
    assert list(judge_files(*opened, [])) == []
