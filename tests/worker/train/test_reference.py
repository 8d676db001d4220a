import numpy as np
import pytest
import torch

from shared.errors import DamagedBundle
from worker.inspect.backbone import digest_of
from worker.inspect.bundle import load_bundle
from worker.inspect.engines.torch_engine import TorchEngine
from worker.inspect.pipeline import Inspector
from worker.inspect.reference import Reference, read_reference, write_reference
from worker.train.reference import PHOTOS, choose_reference


def test_half_are_defective_from_the_clearest_to_the_most_doubtful():
    rng = np.random.default_rng(0)
    margins = rng.normal(size=200)
    is_defective = np.arange(200) < 60
    rows = choose_reference(margins, is_defective)
    assert len(set(rows.tolist())) == PHOTOS
    assert is_defective[rows].sum() == PHOTOS // 2
    for chosen in (rows[is_defective[rows]], rows[~is_defective[rows]]):
        among = margins[is_defective == is_defective[chosen[0]]]
        assert {among.min(), among.max()} <= set(margins[chosen])


@pytest.mark.parametrize(("defective", "expected"), [(0, 0), (3, 3)])
def test_good_ones_fill_up_where_defects_are_missing(defective, expected):
    is_defective = np.arange(60) < defective
    rows = choose_reference(np.arange(60.0), is_defective)
    assert len(set(rows.tolist())) == PHOTOS
    assert is_defective[rows].sum() == expected


def test_a_reference_survives_its_file_to_the_bit(tmp_path):
    rng = np.random.default_rng(0)
    reference = Reference(
        rng.integers(0, 256, (3, 256, 256, 3), dtype=np.uint8),
        *(rng.random(3).astype(np.float32) for _ in range(3)),
    )
    write_reference(reference, tmp_path / "r.safetensors")
    again = read_reference(tmp_path / "r.safetensors")
    for name in ("pixels", "defect_probabilities", "anomaly_scores", "domain_distances"):
        np.testing.assert_array_equal(getattr(again, name), getattr(reference, name))


def test_a_file_that_is_none_is_refused(tmp_path, backbone_file):
    (tmp_path / "r.safetensors").write_bytes(b"x")
    for file in (tmp_path / "r.safetensors", tmp_path / "missing", backbone_file):
        with pytest.raises(DamagedBundle):
            read_reference(file)


def test_what_a_reference_says_is_what_the_reference_engine_says(tmp_path, write_test_bundle):
    write_test_bundle(tmp_path / "bottle", seed=1)
    model = load_bundle(tmp_path / "bottle")
    reference = read_reference(model.reference)
    engine = TorchEngine(model.backbone, sha256=digest_of(model.backbone))
    found = Inspector(engine).read(reference.pixels, engine.features(reference.pixels), model)
    for tensor, said in (
        (found.defect_probabilities, reference.defect_probabilities),
        (found.anomaly_scores, reference.anomaly_scores),
        (found.domain_distances, reference.domain_distances),
    ):
        torch.testing.assert_close(tensor.float(), torch.from_numpy(said), rtol=1e-4, atol=1e-5)
