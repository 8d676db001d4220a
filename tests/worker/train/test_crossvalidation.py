import numpy as np
import pytest
import torch

from shared.errors import InvalidInput
from worker.inspect.preprocess import Photo, measure_quality
from worker.train import autoencoder as autoencoder_training
from worker.train import head as head_training
from worker.train.crossvalidation import draw_folds, read_autoencoder, read_classifier
from worker.train.dataset import LabelledPhoto
from worker.train.features import CachedFeatures, Shown
from worker.train.stages import Stages


def random_features(count: int) -> CachedFeatures:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(count, 1, 1024, 2, 2, generator=generator).half().repeat(1, 3, 1, 1, 1)
    is_defective = torch.arange(count) % 3 == 0
    synthetic = torch.randn(count, 2, 1024, 2, 2, generator=generator).half()
    return CachedFeatures(maps, synthetic, is_defective)


def folds(count: int, number: int = 5) -> np.ndarray:
    return np.arange(count) % number


def labelled(tmp_path, label, count, *, spot=0, groups=None):
    photos = []
    for number in range(count):
        rng = np.random.default_rng([number, spot])
        pixels = np.clip(130 + rng.normal(0, 5, (256, 256, 3)), 0, 255).astype(np.uint8)
        if spot:
            pixels[100:140, 90:130] = spot
        photo = Photo(pixels, measure_quality(pixels))
        group = groups[number] if groups else hash((label, number))
        photos.append(LabelledPhoto(tmp_path, "train", label, f"{label}{number}", photo, group))
    return photos


def test_every_fold_has_its_share_of_both_classes_and_no_part_is_in_two(tmp_path):
    photos = [
        *labelled(tmp_path, "good", 20, groups=[n // 2 for n in range(20)]),
        *labelled(tmp_path, "bent", 10, spot=5),
    ]
    fold_of = draw_folds(photos, folds=5, seed=3)
    for fold in range(5):
        assert (fold_of[:20] == fold).sum() == 4
        assert (fold_of[20:] == fold).sum() == 2
    assert (fold_of[0:20:2] == fold_of[1:20:2]).all()


def test_more_folds_than_good_parts_are_refused_with_the_most_that_there_can_be(tmp_path):
    photos = labelled(tmp_path, "good", 20, groups=[n // 2 for n in range(20)])
    with pytest.raises(InvalidInput, match="at most 10") as raised:
        draw_folds(photos, folds=11, seed=0)
    assert raised.value.field == "folds"


@pytest.mark.filterwarnings("error")
def test_fewer_defects_than_folds_are_no_matter(tmp_path):
    photos = [*labelled(tmp_path, "good", 20), *labelled(tmp_path, "bent", 3, spot=5)]
    assert set(draw_folds(photos, folds=5, seed=0)) == set(range(5))


def test_labels_without_meaning_cannot_be_predicted_out_of_fold(monkeypatch):
    """In the fold such a head would be right nearly always: with 1024 numbers it can
    learn thirty photos by heart."""
    monkeypatch.setattr(head_training, "STEPS", 200)
    features = random_features(60)
    margins = read_classifier(features, folds(60), shown=Shown(1, 1.0), seed=0).margins
    is_right = (margins > 0) == features.is_defective.numpy()
    assert 0.3 < is_right.mean() < 0.8


def test_every_photo_gets_a_reading_and_copies_do_not_multiply_them(monkeypatch):
    monkeypatch.setattr(head_training, "STEPS", 10)
    readings = read_classifier(random_features(30), folds(30), shown=Shown(3, 1.0), seed=0)
    assert readings.margins.shape == (30,)
    assert np.isfinite(readings.margins).all()
    assert readings.evidence.shape == (30, 2, 2)
    assert (readings.domain_distances > 0).all()
    is_defective = random_features(30).is_defective.numpy()
    assert np.isnan(readings.synthetic_margins[is_defective]).all()
    assert np.isfinite(readings.synthetic_margins[~is_defective]).all()
    assert np.isnan(readings.synthetic_distances[is_defective]).all()
    assert (readings.synthetic_distances[~is_defective] > 0).all()


def test_what_is_strange_is_far_from_the_domain_because_it_is_not_in_its_own_fold(monkeypatch):
    monkeypatch.setattr(head_training, "STEPS", 1)
    features = random_features(40)
    features.maps[7] += 3.0
    features.synthetic[8, 0] += 3.0
    readings = read_classifier(features, folds(40), shown=Shown(1, 1.0), seed=0)
    for distances, strange in ((readings.domain_distances, 7), (readings.synthetic_distances, 8)):
        assert np.nanargmax(distances) == strange
        assert distances[strange] > 2 * np.nanmedian(distances)


def test_the_classifier_of_a_fold_has_not_seen_its_photos_nor_their_damaged_versions(monkeypatch):
    """Neither what it takes for good nor the head changes with them."""
    monkeypatch.setattr(head_training, "STEPS", 5)
    monkeypatch.setattr(head_training, "ENOUGH_DEFECTS", 1000)
    fit = head_training.fit_classifier
    found = []

    def spy(*arguments, **options):
        found.append(fit(*arguments, **options))
        return found[-1]

    monkeypatch.setattr("worker.train.crossvalidation.fit_classifier", spy)
    for row in (None, 3):
        features = random_features(20)
        if row is not None:
            features.maps[row] += 1
            features.synthetic[row] -= 1
            features.is_defective[row] = ~features.is_defective[row]
        read_classifier(features, folds(20), shown=Shown(3, 1.0), seed=0)
    for fold in range(5):
        (good, head), (other_good, other_head) = found[fold], found[5 + fold]
        is_same = torch.equal(good.mean, other_good.mean) and torch.equal(good.std, other_good.std)
        assert is_same == (fold == 3)
        assert torch.equal(head.hidden_weight, other_head.hidden_weight) == (fold == 3)


@pytest.fixture
def _short(monkeypatch):
    monkeypatch.setattr(autoencoder_training, "STEPS", 6)


@pytest.mark.usefixtures("_short")
def test_defects_change_nothing_in_how_good_photos_are_read(tmp_path):
    good = labelled(tmp_path, "good", 10)
    fold_of = np.concatenate([folds(10, 2), folds(5, 2)])
    dark, bright = (
        read_autoencoder(
            [*good, *labelled(tmp_path, "spot", 5, spot=value)],
            fold_of,
            seed=0,
            stages=Stages(tmp_path / str(value), {}),
        )
        for value in (5, 250)
    )
    assert torch.equal(dark.strangeness[:10], bright.strangeness[:10])
    assert (dark.mses[:10] == bright.mses[:10]).all()


@pytest.mark.usefixtures("_short")
def test_a_spot_that_no_good_part_has_is_stranger_than_all_of_them(tmp_path):
    photos = [*labelled(tmp_path, "good", 10), *labelled(tmp_path, "spot", 5, spot=5)]
    readings = read_autoencoder(
        photos,
        np.concatenate([folds(10, 2), folds(5, 2)]),
        seed=0,
        stages=Stages(tmp_path / "s", {}),
    )
    assert readings.scores[10:].min() > readings.scores[:10].max()
    assert readings.strangeness.shape == (15, 256, 256)
    spot = readings.strangeness[12, 105:135, 95:125].mean()
    assert spot > 5 * readings.strangeness[12, 200:, 200:].abs().mean()


@pytest.mark.usefixtures("_short")
def test_a_good_photo_is_measured_by_the_good_photos_of_other_folds(tmp_path):
    """Measured by itself too, an odd good photo would widen what counts as usual."""
    good = labelled(tmp_path, "good", 10)
    odd = labelled(tmp_path, "good", 1, spot=60)[0]
    photos = [odd, *good[1:]]
    readings = read_autoencoder(photos, folds(10, 2), seed=0, stages=Stages(tmp_path / "s", {}))
    assert readings.scores.argmax() == 0
    assert readings.scores[0] > 3 * np.median(readings.scores)
