import numpy as np
import pytest
import torch

from worker.inspect.backbone import pool
from worker.train import features as features_of_photos
from worker.train.dataset import LabelledPhoto
from worker.train.features import COPIES, cache_features, relit, turned
from worker.train.stages import Stages


class StandInEngine:
    """Maps whose first channel is the brightness of the top left corner."""

    name = "stand-in"
    backbone_sha256 = "none"

    def __init__(self):
        self.batches = []

    def features(self, photos):
        self.batches.append(len(photos))
        maps = torch.zeros(len(photos), 1024, 8, 8)
        maps[:, 0] = torch.from_numpy(photos[:, 0, 0, 0].astype(np.float32))[:, None, None]
        return maps


def test_the_eight_copies_are_the_eight_ways_to_lay_a_square():
    square = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    copies = {turned(square, copy).tobytes() for copy in range(COPIES)}
    assert len(copies) == 8
    assert turned(square, 0).tobytes() == square.tobytes()
    # A quarter turn against the clock: the right column becomes the top row.
    assert (turned(square, 1)[0, 0] == square[0, :, 1]).all()


def test_copies_are_lit_at_most_seven_percent_differently_each_photo_on_its_own():
    rng = np.random.default_rng(0)
    lit = relit(np.full((200, 2, 2, 3), 100, np.uint8), rng)
    assert lit.min() == 93
    assert lit.max() == 107
    assert (lit.reshape(200, -1) == lit.reshape(200, -1)[:, :1]).all()
    assert len(np.unique(lit)) > 10


def test_light_is_cut_at_white():
    assert relit(np.full((50, 1, 1, 3), 255, np.uint8), np.random.default_rng(0)).max() == 255


def labelled(photos, tmp_path):
    return [
        LabelledPhoto(tmp_path, "train", ("good", "bent")[index % 2], str(index), photo, index)
        for index, photo in enumerate(photos)
    ] * 2


def test_rows_are_photos_in_order_and_copy_0_is_the_photo_as_it_is(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(features_of_photos, "MOST_SYNTHETIC", 2)
    some = labelled(photos, tmp_path)
    engine = StandInEngine()
    heard = []

    features = cache_features(
        some,
        engine,
        seed=0,
        stages=Stages(tmp_path / "stages", {}),
        progress=lambda *report: heard.append(report),
    )

    corners = torch.tensor([float(photo.photo.pixels[0, 0, 0]) for photo in some])
    assert features.maps.shape == (20, COPIES, 1024, 8, 8)
    torch.testing.assert_close(features.maps[:, 0, 0, 3, 5].float(), corners)
    torch.testing.assert_close(features.fingerprints, pool(features.maps[:, 0].float()))
    assert features.is_defective.tolist() == [False, True] * 10
    assert features.synthetic.shape == (20, 2, 1024, 8, 8)
    assert features.synthetic[1::2].eq(0).all()
    # Version 0 is lit as the photo is, but for those whose corner the defect has taken.
    is_alike = features.synthetic[::2, 0, 0, 3, 5].float() == corners[::2]
    assert is_alike.float().mean() > 0.7
    assert not torch.equal(features.synthetic[:, 0], features.synthetic[:, 1])
    assert sum(engine.batches) == 20 * COPIES + 10 * 2
    assert [percent for _, percent, _ in heard] == sorted(percent for _, percent, _ in heard)
    assert heard[-1] == ("backbone", 100, 100)


def test_a_killed_run_goes_on_where_it_was_with_the_same_result(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(features_of_photos, "MOST_SYNTHETIC", 1)
    some = labelled(photos, tmp_path)
    whole = cache_features(some, StandInEngine(), seed=0, stages=Stages(tmp_path / "a", {}))

    class Killed(StandInEngine):
        def features(self, photos):
            if len(self.batches) == 7:
                raise KeyboardInterrupt
            return super().features(photos)

    with pytest.raises(KeyboardInterrupt):
        cache_features(some, Killed(), seed=0, stages=Stages(tmp_path / "b", {}))
    engine = StandInEngine()
    resumed = cache_features(some, engine, seed=0, stages=Stages(tmp_path / "b", {}))

    assert sum(engine.batches) < 20 * COPIES
    assert torch.equal(resumed.maps, whole.maps)
    assert torch.equal(resumed.synthetic, whole.synthetic)


def test_where_heads_need_no_synthetic_defects_there_is_one_version_to_read(photos, tmp_path):
    features = cache_features(
        labelled(photos, tmp_path),
        StandInEngine(),
        seed=0,
        stages=Stages(tmp_path / "s", {}),
        needs_synthetic=False,
    )
    assert features.synthetic.shape == (20, 1, 1024, 8, 8)


def test_good_photos_alone_are_enough_and_few_of_them_are_damaged_more_often(photos, tmp_path):
    some = [
        LabelledPhoto(tmp_path, "train", "good", str(index), photo, index)
        for index, photo in enumerate(photos[:2])
    ]
    features = cache_features(some, StandInEngine(), seed=0, stages=Stages(tmp_path / "s", {}))
    assert features.synthetic.shape[:2] == (2, features_of_photos.MOST_SYNTHETIC)
