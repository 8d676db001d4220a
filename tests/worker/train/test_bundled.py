"""The bundle that comes with the release, as a fresh clone has it."""

import hashlib

from shared.sample_photos import SAMPLES as FOLDER
from worker.inspect.bundle import load_bundle
from worker.inspect.files import judge_files, open_bundle
from worker.inspect.pipeline import Judgement
from worker.train.bundled import SAMPLES
from worker.train.sources import BUNDLES, bundled_backbone


def test_it_is_whole_and_uses_the_bundled_backbone():
    model = load_bundle(BUNDLES / "bottle")
    assert model.manifest.product == "bottle"
    assert model.manifest.backbone.sha256 == bundled_backbone().sha256


def test_its_provenance_says_that_no_photo_went_into_it():
    assert "all rendered by this project" in load_bundle(BUNDLES / "bottle").manifest.provenance


def test_the_samples_show_every_kind_and_were_not_trained_on():
    manifest = load_bundle(BUNDLES / "bottle").manifest
    samples = sorted(FOLDER.iterdir())
    assert len(samples) == len(SAMPLES)
    assert set(SAMPLES) == {"good", *manifest.defect_types}
    seen = {*manifest.data.trained_on, *manifest.data.held_out}
    for path in samples:
        assert "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest() not in seen


def test_every_sample_gets_a_verdict():
    inspector, model = open_bundle(BUNDLES / "bottle")
    samples = sorted(FOLDER.iterdir())
    for path, judgement in judge_files(inspector, model, samples):
        assert isinstance(judgement, Judgement), path
        assert judgement.outcome.is_in_domain, path
