import cv2
import numpy as np
import pytest

from worker.inspect.preprocess import resize
from worker.train.duplicates import near_duplicates, near_duplicates_within

SIDE = 450


def part(number: int, *, is_capless: bool = False) -> np.ndarray:
    """A part in a fixture: all alike but for its place, its light, its grain and a few marks."""
    rng = np.random.default_rng([5, number])
    grain = cv2.GaussianBlur(rng.normal(0, 160, (SIDE, SIDE, 3)).astype(np.float32), (0, 0), 3)
    image = 90 + grain
    cv2.rectangle(image, (20, 20), (430, 60), (230, 230, 230), -1)
    x, y = 225 + rng.integers(-4, 5, 2)
    cv2.circle(image, (int(x), int(y)), 150, (180, 170, 160), -1)
    image[75:375, 75:375] += 0.5 * grain[75:375, 75:375]
    for _ in range(8):
        mark = rng.integers(120, 330, 2)
        cv2.circle(
            image, (int(mark[0]), int(mark[1])), int(rng.integers(3, 8)), (150, 140, 130), -1
        )
    if is_capless:
        image[150:300:10, 150:300] = 20
    return np.clip(image * rng.uniform(0.97, 1.03), 0, 255).astype(np.uint8)


def reencoded(image):
    _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])
    return cv2.imdecode(jpeg, cv2.IMREAD_COLOR)


def rescaled(image):
    return cv2.resize(image, (300, 300), interpolation=cv2.INTER_AREA)


def darker(image):
    return (image * 0.9).astype(np.uint8)


def noisy(image):
    noise = np.random.default_rng(1).normal(0, 4, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def cropped(image):
    return np.ascontiguousarray(image[3:, :-4])


def a_frame_later(image):
    move = np.array([[1, 0, 2], [0, 1, -1]], np.float64)
    return cv2.warpAffine(image, move, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)


@pytest.fixture(scope="module")
def parts():
    return [part(number) for number in range(16)]


@pytest.mark.parametrize(
    "change", [reencoded, rescaled, darker, noisy, cropped, a_frame_later], ids=lambda c: c.__name__
)
def test_a_copy_is_told_from_photos_of_other_parts(parts, change):
    ours = [resize(image) for image in parts[:12]]
    theirs = [resize(part(50)), resize(change(parts[7])), resize(part(51)), resize(part(52))]
    assert near_duplicates(ours, theirs) == [(7, 1)]


def test_different_parts_in_one_fixture_are_no_copies(parts):
    assert near_duplicates_within([resize(image) for image in parts]) == []


def test_a_defect_that_many_parts_share_does_not_make_them_one_part(parts):
    capless = [resize(part(number, is_capless=True)) for number in range(30, 36)]
    assert near_duplicates_within([resize(image) for image in parts] + capless) == []


def test_pairs_within_one_set_are_given_once(parts):
    photos = [resize(image) for image in [*parts, reencoded(parts[3])]]
    assert near_duplicates_within(photos) == [(3, 16)]


def test_copies_on_one_side_alone_are_no_pair_across(parts):
    ours = [resize(image) for image in [*parts[:10], reencoded(parts[3])]]
    assert near_duplicates(ours, [resize(image) for image in parts[10:]]) == []


def test_of_nothing_there_are_no_pairs():
    assert near_duplicates([], []) == []
    assert near_duplicates_within([]) == []


def test_two_bursts_of_one_part_are_joined(parts):
    """The nearest of each photo are all frames of its own burst."""
    burst = [noisy_by(parts[0], number) for number in range(5)]
    again = [noisy_by(a_frame_later(parts[0]), number) for number in range(5, 10)]
    photos = [resize(photo[:, :, ::-1]) for photo in (*burst, *again, *parts[1:])]
    group = list(range(len(photos)))
    for i, j in near_duplicates_within(photos):
        group = [group[i] if one == group[j] else one for one in group]
    assert len(set(group[:10])) == 1
    assert len(set(group[10:])) == len(parts) - 1


def noisy_by(image, seed):
    noise = np.random.default_rng(seed).normal(0, 2, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)
