from dataclasses import replace

import cv2
import pytest
import torch

from shared.errors import NotAnImage, NotANumber, UnreadableImage
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


def test_a_photo_for_which_the_models_have_no_number_is_an_error_not_good(
    tmp_path, photos, write_test_bundle
):
    write_test_bundle(tmp_path / "bottle")
    inspector, model = open_bundle(tmp_path / "bottle")
    broken = replace(model.parts.head, output_bias=torch.full((2,), torch.nan))
    model = replace(model, parts=replace(model.parts, head=broken))
    cv2.imwrite(str(tmp_path / "1.png"), photos[0].pixels)
    ((_, outcome),) = judge_files(inspector, model, [tmp_path / "1.png"])
    assert isinstance(outcome, NotANumber)


def test_no_files_give_nothing(opened):
    assert list(judge_files(*opened, [])) == []
