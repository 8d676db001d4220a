from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from shared.errors import UnusableData
from shared.manifest import Limits, Thresholds
from shared.verdicts import Scores, decide
from worker.train.judged import JudgedPhoto, Maps
from worker.train.localisation import localisation, mask_file, read_mask

LIMITS = Limits(gradcam_high=3.0, anomaly_low=2.0, anomaly_high=8.0)
THRESHOLDS = Thresholds(
    defect_probability=0.5,
    near_threshold_low=0.5,
    near_threshold_high=0.5,
    anomaly_score=5.0,
    domain_distance=50.0,
)


def photo(*, mask=None, attention=None, strangeness=None, found=True, label=None):
    scores = Scores(0.9 if found else 0.1, 0.01, 9.0, 10.0, ())
    attention = np.zeros((8, 8), np.float32) if attention is None else attention
    strangeness = np.zeros((256, 256), np.float16) if strangeness is None else strangeness
    return JudgedPhoto(
        "x.png",
        label or ("good" if mask is None else "chip"),
        False,
        scores,
        decide(scores, THRESHOLDS),
        THRESHOLDS,
        Maps(attention, strangeness, LIMITS, mask),
    )


def peak(shape, place, dtype=np.float32, value=1.0):
    values = np.zeros(shape, dtype)
    values[place] = value
    return values


def square(top, left, side):
    mask = np.zeros((256, 256), np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


def measured(photos):
    return localisation(photos, seed=0, resamples=50)


@pytest.fixture(scope="module")
def noisy():
    """Two masked defects, one of two regions of very different sizes, and two good photos."""
    rng = np.random.default_rng(4)
    masks = [square(10, 20, 60) | square(200, 200, 9), square(100, 100, 30), None, None]
    return [
        photo(
            mask=mask,
            strangeness=(rng.normal(0, 1, (256, 256)) + (0 if mask is None else 0.8 * mask)).astype(
                np.float16
            ),
        )
        for mask in masks
    ]


def pooled(photos):
    masks = [np.zeros((256, 256), bool) if p.maps.mask is None else p.maps.mask for p in photos]
    return np.stack(masks), np.stack([p.maps.strangeness.astype(np.float64) for p in photos])


def test_pixel_auroc_is_that_of_scikit_learn_over_all_pixels_of_all_photos(noisy):
    masks, values = pooled(noisy)
    expected = roc_auc_score(masks.ravel(), values.ravel())
    assert measured(noisy)["anomaly_map"]["pixel_auroc"] == pytest.approx(expected, abs=1e-9)


def literal_aupro(masks, values, limit):
    """As its authors define it, threshold by threshold, region by region."""
    regions = []
    for number, mask in enumerate(masks):
        count, labels = cv2.connectedComponents(mask.astype(np.uint8))
        regions += [values[number][labels == region] for region in range(1, count)]
    sound = values[~masks]
    rates, overlaps = [0.0], [0.0]
    for threshold in np.unique(values)[::-1]:
        rates.append((sound >= threshold).mean())
        overlaps.append(np.mean([(region >= threshold).mean() for region in regions]))
        if rates[-1] > limit:
            break
    inside = np.minimum(rates, limit)
    at_limit = np.interp(limit, rates, overlaps)
    clipped = np.where(np.array(rates) > limit, at_limit, overlaps)
    return np.trapezoid(clipped, inside) / limit


def test_aupro_is_that_of_a_slow_literal_implementation(noisy):
    coarse = [
        photo(mask=p.maps.mask, strangeness=np.round(p.maps.strangeness * 20) / 20) for p in noisy
    ]
    masks, values = pooled(coarse)
    expected = literal_aupro(masks, values, 0.3)
    found = measured(coarse)["anomaly_map"]["aupro"]
    assert found == pytest.approx(expected, abs=1e-9)
    # Pixels alone would say something else: the small region counts as much as the large one.
    assert abs(found - measured(coarse)["anomaly_map"]["pixel_auroc"]) > 0.01


def test_small_regions_count_as_much_as_large_ones():
    large, small = square(0, 0, 100), square(200, 200, 10)
    only_small = measured([photo(mask=large | small, strangeness=small.astype(np.float16))])
    # One of two regions is found before the first sound pixel; the rest comes with all of
    # them, on a straight line: at 30 % of the sound pixels 0.5 + 0.3 / 2 are found.
    assert only_small["anomaly_map"]["aupro"] == pytest.approx((0.5 + 0.65) / 2)


def test_negative_values_rank_below_positive_ones():
    mask = square(0, 0, 128)
    values = np.where(mask, np.float16(-1), np.float16(-2))
    values[200:, 200:] = np.float16(-0.0)
    values[:10, :10] = np.float16(0.0)
    masks, numbers = mask[None], values[None].astype(np.float64)
    found = measured([photo(mask=mask, strangeness=values)])["anomaly_map"]["pixel_auroc"]
    assert found == pytest.approx(roc_auc_score(masks.ravel(), numbers.ravel()), abs=1e-9)


def test_intervals_of_pixel_figures_hold_the_figure_and_come_from_drawing_photos(noisy):
    found = localisation(noisy * 5, seed=0, resamples=300)
    for name in ("pixel_auroc", "aupro"):
        low, high = found["intervals"]["anomaly_map"][name]
        assert low <= found["anomaly_map"][name] <= high
        # A million pixels drawn one by one would leave no doubt at all.
        assert high - low > 0.002


def test_grad_cam_points_at_a_defect_if_its_peak_is_in_or_beside_a_cell_of_the_mask():
    mask = square(64, 64, 32)  # exactly the cell (2, 2)
    found = measured(
        [
            photo(mask=mask, attention=peak((8, 8), (2, 2))),
            photo(mask=mask, attention=peak((8, 8), (3, 3))),
            photo(mask=mask, attention=peak((8, 8), (2, 4))),  # two cells away
            photo(mask=mask, attention=peak((8, 8), (0, 0)), found=False),
            photo(mask=mask, found=False),  # points nowhere
        ]
    )
    assert found["detected"] == 3
    assert found["gradcam"]["inside"] == pytest.approx(1 / 3)
    assert found["gradcam"]["within_one_cell"] == pytest.approx(2 / 3)
    assert found["gradcam"]["within_one_cell_of_all"] == pytest.approx(2 / 5)
    assert found["by_chance"]["cell_inside"] == pytest.approx(1 / 64)
    assert found["by_chance"]["within_one_cell"] == pytest.approx(9 / 64)


def test_the_peak_of_the_anomaly_map_counts_by_its_pixel():
    mask = square(64, 64, 32)
    found = measured(
        [
            photo(mask=mask, strangeness=peak((256, 256), (95, 95), np.float16)),
            photo(mask=mask, strangeness=peak((256, 256), (96, 95), np.float16)),
            photo(mask=mask, strangeness=peak((256, 256), (160, 95), np.float16)),
        ]
    )
    assert found["anomaly_map"]["inside"] == pytest.approx(1 / 3)
    assert found["anomaly_map"]["within_one_cell"] == pytest.approx(2 / 3)


def test_good_parts_stay_blue_below_a_third_of_the_scale():
    found = measured(
        [
            photo(attention=peak((8, 8), (0, 0), value=0.9)),  # of 3: below a third
            photo(attention=peak((8, 8), (0, 0), value=1.1)),
            photo(strangeness=peak((256, 256), (0, 0), np.float16, 3.9)),  # 2 to 8: below a third
            photo(strangeness=peak((256, 256), (0, 0), np.float16, 4.1)),
        ]
    )
    assert found["good_parts_blue"] == {"gradcam": 0.75, "anomaly_map": 0.75}


def test_defects_without_a_mask_are_counted_and_left_out(noisy):
    with_one = measured(
        [*noisy, photo(label="chip", strangeness=np.full((256, 256), 9, np.float16))]
    )
    assert with_one["defects_without_mask"] == 1
    assert with_one["anomaly_map"]["pixel_auroc"] == measured(noisy)["anomaly_map"]["pixel_auroc"]


def test_without_masks_nothing_is_said_of_where_maps_point():
    found = measured([photo(), photo(label="chip")])
    assert found["defects_with_mask"] == 0
    assert found["anomaly_map"]["pixel_auroc"] is None
    assert found["gradcam"]["within_one_cell"] is None
    assert found["good_parts_blue"]["gradcam"] == 1


NO_PHOTO = Path("no photo, so of any shape")


def write_mask(folder, mask):
    file = folder / "000_mask.png"
    cv2.imwrite(str(file), mask)
    return file


def test_a_mask_lies_where_mvtec_has_it(tmp_path):
    photo_file = tmp_path / "test" / "chip" / "007.png"
    assert mask_file(photo_file) == tmp_path / "ground_truth" / "chip" / "007_mask.png"


def test_a_mask_is_shrunk_as_its_photo_was_and_half_covered_counts(tmp_path):
    mask = np.zeros((1024, 512), np.uint8)
    mask[0:6, 0:2] = 255  # 1.5 pixels of 4 x 2
    shrunk = read_mask(write_mask(tmp_path, mask), NO_PHOTO)
    assert shrunk[:2, 0].tolist() == [True, True]
    assert shrunk.sum() == 2


def test_a_defect_too_thin_for_the_grid_is_not_lost(tmp_path):
    scratch = np.zeros((1024, 1024), np.uint8)
    scratch[100, 200:400] = 255  # a quarter of each pixel
    shrunk = read_mask(write_mask(tmp_path, scratch), NO_PHOTO)
    assert shrunk[25].sum() == 50
    assert shrunk.sum() == 50
    speck = np.zeros((5888, 5888), np.uint8)
    speck[5760, 40] = 255
    shrunk = read_mask(write_mask(tmp_path, speck), NO_PHOTO)
    assert np.argwhere(shrunk).tolist() == [[250, 1]]


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_a_mask_that_is_no_picture_is_named(tmp_path, content):
    (tmp_path / "000_mask.png").write_bytes(content)
    with pytest.raises(UnusableData, match=r"000_mask\.png is no mask"):
        read_mask(tmp_path / "000_mask.png", NO_PHOTO)


def test_an_empty_mask_is_named(tmp_path):
    with pytest.raises(UnusableData, match="marks no defect"):
        read_mask(write_mask(tmp_path, np.zeros((200, 200), np.uint8)), NO_PHOTO)


def test_what_is_transparent_is_not_marked(tmp_path):
    drawn = np.zeros((256, 256, 4), np.uint8)
    drawn[40:80, 100:150] = 255
    shrunk = read_mask(write_mask(tmp_path, drawn), NO_PHOTO)
    assert shrunk.sum() == 40 * 50
    assert shrunk[40:80, 100:150].all()
    drawn[..., 3] = 255  # a black background
    assert np.array_equal(read_mask(write_mask(tmp_path, drawn), NO_PHOTO), shrunk)


def test_a_mask_of_another_shape_than_its_photo_is_named(tmp_path):
    mask = np.full((200, 300), 255, np.uint8)
    cv2.imwrite(str(tmp_path / "000.png"), np.zeros((400, 600, 3), np.uint8))
    assert read_mask(write_mask(tmp_path, mask), tmp_path / "000.png").all()
    cv2.imwrite(str(tmp_path / "000.png"), np.zeros((400, 400, 3), np.uint8))
    with pytest.raises(UnusableData, match="300 x 200 pixels and its photo 400 x 400"):
        read_mask(write_mask(tmp_path, mask), tmp_path / "000.png")


def test_defects_of_train_have_masks_unless_a_photo_of_test_has_that_name(tmp_path):
    """train/chip/000.png and test/chip/000.png share a stem, and a mask of nothing is usual."""
    mask = tmp_path / "ground_truth" / "chip" / "000_mask.png"
    assert mask_file(tmp_path / "test" / "chip" / "000.png") == mask
    assert mask_file(tmp_path / "train" / "chip" / "000.png") == mask
    assert mask_file(tmp_path / "test" / "good" / "000.png") is None
    assert mask_file(tmp_path / "train" / "good" / "000.png") is None
    (tmp_path / "test" / "chip").mkdir(parents=True)
    (tmp_path / "test" / "chip" / "000.jpg").write_bytes(b"a photo")
    assert mask_file(tmp_path / "train" / "chip" / "000.png") is None
    assert mask_file(tmp_path / "train" / "chip" / "001.png") is not None
    assert mask_file(tmp_path / "chip" / "000.png") is None
