import cv2
import numpy as np
import pytest

from shared.errors import InvalidInput
from worker.train.render import LABELS, render_bottle, render_dataset
from worker.train.render.breakage import break_glass
from worker.train.render.contamination import contaminate
from worker.train.render.dataset import plan
from worker.train.render.geometry import SIDE, draw_pose
from worker.train.render.glass import intact_glass
from worker.train.render.strip import unroll

DEFECTS = ("broken_large", "broken_small", "contamination")


def scene_of(seed):
    """An intact scene before the camera, with what is needed to damage it."""
    rng = np.random.default_rng(seed)
    pose = draw_pose(rng)
    polar = pose.to_polar()
    return rng, unroll(intact_glass(rng), *polar), pose, polar


def damage(label, seed):
    """The scene before and after, and the mask of the damage."""
    rng, scene, pose, polar = scene_of(seed)
    before = scene.copy()
    if label == "contamination":
        return before, scene, contaminate(rng, scene, pose)
    mask = break_glass(rng, scene, pose, polar, is_large=label == "broken_large")
    return before, scene, mask


def sectors(mask):
    """How many of 72 sectors of 5 degrees around the photo's centre the mask touches."""
    y, x = np.nonzero(mask)
    centre = (mask.shape[0] - 1) / 2
    degrees = np.degrees(np.arctan2(y - centre, x - centre)) % 360
    return len(set((degrees // 5).astype(int)))


@pytest.mark.parametrize("label", LABELS)
def test_a_photo_and_its_mask_have_the_size_that_was_asked_for(label):
    rendered = render_bottle(np.random.default_rng(1), label, size=256)

    assert rendered.image.shape == (256, 256, 3)
    assert rendered.image.dtype == np.uint8
    assert rendered.mask.shape == (256, 256)
    assert rendered.mask.dtype == np.bool_


def test_only_a_defective_bottle_has_something_in_its_mask():
    for seed in range(4):
        assert not render_bottle(np.random.default_rng(seed), "good", 256).mask.any()
        for label in DEFECTS:
            assert render_bottle(np.random.default_rng(seed), label, 256).mask.any()


@pytest.mark.parametrize("label", LABELS)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_bottle(label):
    first, again, other = (
        render_bottle(np.random.default_rng(seed), label, 300) for seed in (7, 7, 8)
    )

    assert first.image.tobytes() == again.image.tobytes()
    assert first.mask.tobytes() == again.mask.tobytes()
    assert first.image.tobytes() != other.image.tobytes()


def test_a_smaller_photo_shows_the_same_bottle():
    large = render_bottle(np.random.default_rng(3), "broken_large", 900)
    small = render_bottle(np.random.default_rng(3), "broken_large", 300)

    # 900 is three times 300: the small photo is the mean of blocks of three by three.
    blocks = large.image.reshape(300, 3, 300, 3, 3).mean((1, 3))
    assert np.abs(blocks - small.image).max() <= 1.0


def test_an_unknown_label_is_refused_by_name():
    with pytest.raises(ValueError, match="'cracked'"):
        render_bottle(np.random.default_rng(0), "cracked")


def test_the_opening_is_dark_the_glass_brighter_and_the_background_white():
    for seed in range(5):
        image = render_bottle(np.random.default_rng(seed), "good", 900).image.astype(float)
        y, x = np.mgrid[:900, :900]
        radius = np.hypot(y - 449.5, x - 449.5)

        opening = image[radius < 160].mean()
        glass = image[(radius > 220) & (radius < 370)].mean()
        assert 25 < opening < 60
        assert glass > opening + 15
        assert image[radius > 430].min() > 225


def test_the_band_on_the_glass_is_amber():
    image = render_bottle(np.random.default_rng(2), "good", 900).image.astype(float)
    y, x = np.mgrid[:900, :900]
    band = np.abs(np.hypot(y - 449.5, x - 449.5) - 314) < 8

    red, green, blue = image[band].mean(0)
    assert red > green + 10
    assert green > blue


@pytest.mark.parametrize("label", DEFECTS)
def test_nearly_all_that_a_defect_changes_lies_in_its_mask(label):
    for seed in range(6):
        before, after, mask = damage(label, seed)

        changed = np.abs(np.minimum(after, 255) - np.minimum(before, 255)).max(-1) > 12
        # Rim light and loose fibres may stand over the border by a few pixels.
        near = cv2.dilate(mask.astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
        assert (changed & ~near).sum() <= 0.02 * changed.sum()


@pytest.mark.parametrize("label", DEFECTS)
def test_a_mask_covers_what_was_changed_and_little_else(label):
    for seed in range(6):
        before, after, mask = damage(label, seed)

        change = np.abs(np.minimum(after, 255) - np.minimum(before, 255)).max(-1)
        assert (change[mask] > 0.5).mean() > 0.9


def test_a_large_break_spans_at_least_45_degrees_and_a_small_one_at_most_120_and_its_chips():
    for seed in range(8):
        assert sectors(damage("broken_large", seed)[2]) >= 45 // 5
        # Two tiny chips of 9 degrees may lie elsewhere; a border may cut one more sector.
        assert sectors(damage("broken_small", seed)[2]) <= 120 // 5 + 2 * 2 + 3


def test_contamination_is_never_too_faint_to_be_seen_by_anybody():
    for seed in range(12):
        before, after, mask = damage("contamination", seed)

        assert mask.sum() >= 80
        assert np.abs(after - before)[mask].mean() >= 3.5


def test_pixels_and_polar_coordinates_agree():
    pose = draw_pose(np.random.default_rng(5))
    radius, angle = pose.to_polar()
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False, dtype=np.float32)

    for nominal in (150.0, 230.0, 320.0, 395.0):
        x, y = np.round(pose.to_pixels(np.full(40, nominal, np.float32), turn)).astype(int).T
        assert np.abs(radius[y, x] - nominal).max() < 2.0
        away = np.angle(np.exp(1j * (angle[y, x] - turn)))
        # The angle ignores tilt: some pixels of shift, seen from the axis.
        assert np.abs(away).max() < 0.12


def test_a_hundred_photos_are_split_sixty_ten_ten_ten_ten():
    photos = plan(100)

    assert photos.count(("train", "good")) == 60
    assert photos.count(("test", "good")) == 10
    for label in DEFECTS:
        assert photos.count(("test", label)) == 10


def test_odd_counts_fill_up_with_good_photos_to_train_on():
    assert len(plan(37)) == 37
    assert plan(37).count(("train", "good")) == 37 - 4 * 3
    assert sorted(set(plan(5))) == sorted(plan(5))


def test_too_few_photos_for_one_of_each_kind_are_refused():
    with pytest.raises(InvalidInput, match="5 or more"):
        plan(4)


def test_a_rendered_folder_has_the_mvtec_layout(tmp_path):
    heard = []
    out = tmp_path / "bottles"
    render_dataset(
        out, count=7, seed=3, size=200, progress=lambda done, of: heard.append((done, of))
    )

    files = sorted(str(path.relative_to(out)) for path in out.rglob("*.png"))
    assert files == sorted(
        [f"train/good/{number:03d}.png" for number in range(3)]
        + [f"test/{label}/000.png" for label in LABELS]
        + [f"ground_truth/{label}/000_mask.png" for label in DEFECTS]
    )
    assert heard == [(done, 7) for done in range(1, 8)]
    photo = cv2.imread(str(out / "test/broken_large/000.png"))
    mask = cv2.imread(str(out / "ground_truth/broken_large/000_mask.png"), cv2.IMREAD_UNCHANGED)
    assert photo.shape == (200, 200, 3)
    assert mask.shape == (200, 200)
    assert set(np.unique(mask)) == {0, 255}


def test_each_photo_of_a_folder_depends_on_the_seed_and_its_number_alone(tmp_path):
    render_dataset(tmp_path / "bottles", count=5, seed=11, size=150)

    rng = np.random.default_rng(np.random.SeedSequence(11, spawn_key=(2,)))
    third = render_bottle(rng, plan(5)[2][1], 150)
    split, label = plan(5)[2]
    written = cv2.imread(str(tmp_path / "bottles" / split / label / "000.png"))
    assert written[..., ::-1].tobytes() == third.image.tobytes()


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(InvalidInput, match="not empty"):
        render_dataset(tmp_path, count=5, seed=0, size=150)

    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_scene_is_composed_at_900_pixels():
    assert SIDE == 900
    assert render_bottle(np.random.default_rng(0), "good").image.shape == (900, 900, 3)
