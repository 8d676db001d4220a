"""Which engine is taken, with real engines on a random backbone."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from shared.errors import InvalidInput
from worker.inspect.bundle import load_bundle
from worker.inspect.engines import choice, openvino_engine
from worker.inspect.engines.choice import Agreement, Engines, exact_engine, measure_agreement
from worker.inspect.engines.torch_engine import TorchEngine
from worker.inspect.reference import read_reference, write_reference


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_test_bundle):
    folder = tmp_path_factory.mktemp("models") / "bottle"
    write_test_bundle(folder, seed=1)
    return folder


@pytest.fixture
def bottle(folder, tmp_path):
    """Its reference may be changed."""
    model = load_bundle(folder)
    shutil.copy(model.reference, tmp_path / "reference.safetensors")
    return replace(model, reference=tmp_path / "reference.safetensors")


def rewrite(model, **changes):
    write_reference(replace(read_reference(model.reference), **changes), model.reference)


def test_the_fastest_that_agrees_is_taken(bottle, monkeypatch):
    # Where the processor has no bf16, OpenVINO calculates in fp32 and differs by nothing.
    rounding = {"openvino-bf16": 0.01, "openvino-fp32": 0.0}
    monkeypatch.setattr(
        choice,
        "measure_agreement",
        lambda engine, *_: Agreement(difference=rounding[engine.name], flips=0),
    )
    monkeypatch.setattr(choice, "has_fast_bf16", lambda: True)
    assert Engines().choose(bottle).name == "openvino-bf16"
    rounding["openvino-bf16"] = 0.03
    assert Engines().choose(bottle).name == "openvino-fp32"


@pytest.fixture
def broken_gpu(monkeypatch):
    """It is there, and its driver is not what it should be."""

    def broken(*_, **__):
        raise RuntimeError("CUDA driver version is insufficient for CUDA runtime version")

    monkeypatch.setattr(choice.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(choice, "CudaEngine", broken)


@pytest.mark.usefixtures("broken_gpu")
def test_an_engine_that_fails_is_passed_over(bottle, monkeypatch):
    monkeypatch.setattr(choice, "has_fast_bf16", lambda: False)
    assert Engines().choose(bottle).name == "openvino-fp32"
    exact = exact_engine(bottle.backbone, sha256=bottle.manifest.backbone.sha256)
    assert exact.name == "openvino-fp32"


@pytest.mark.usefixtures("broken_gpu")
def test_an_engine_that_was_asked_for_by_name_is_not_passed_over(bottle):
    with pytest.raises(RuntimeError, match="driver"):
        Engines("cuda-bf16").choose(bottle)


def test_hardware_without_bf16_is_not_asked_for_it(bottle, monkeypatch):
    monkeypatch.setattr(choice, "has_fast_bf16", lambda: False)
    monkeypatch.setattr(choice, "MOST_DIFFERENCE", 1.0)
    assert Engines().choose(bottle).name == "openvino-fp32"


def test_models_that_can_share_an_engine_do(bottle):
    engines = Engines()
    other = replace(bottle, digest="sha256:" + "1" * 64)
    assert engines.choose(bottle) is engines.choose(other)


def test_the_setting_overrides_and_a_wrong_one_is_refused(bottle):
    assert Engines("torch-cpu").choose(bottle).name == "torch-cpu"
    with pytest.raises(InvalidInput, match="abacus"):
        Engines("abacus")
    with pytest.raises(InvalidInput, match="openvino-int8 cannot run bottle here"):
        Engines("openvino-int8").choose(bottle)


def test_where_none_agrees_the_reference_itself_is_taken_and_it_is_told(bottle, monkeypatch):
    warned = []
    log = SimpleNamespace(
        info=lambda *_, **__: None, warning=lambda event, **_: warned.append(event)
    )
    monkeypatch.setattr(choice, "log", log)
    said = read_reference(bottle.reference).defect_probabilities
    rewrite(bottle, defect_probabilities=1 - said)
    assert Engines().choose(bottle).name == "torch-cpu"
    assert warned == ["no_engine_agrees"]


@pytest.mark.parametrize(
    ("name", "limit"),
    [("anomaly_scores", "anomaly_score"), ("domain_distances", "domain_distance")],
)
def test_a_photo_that_changes_sides_is_a_flip(bottle, name, limit):
    engine = exact_engine(bottle.backbone, sha256=bottle.manifest.backbone.sha256)
    reference = read_reference(bottle.reference)
    assert measure_agreement(engine, bottle, reference).is_good
    threshold = getattr(bottle.manifest.thresholds, name[:-1])
    other_side = np.where(
        getattr(reference, name) >= threshold, threshold - 1, threshold + 1
    ).astype(np.float32)
    agreement = measure_agreement(engine, bottle, replace(reference, **{name: other_side}))
    assert (agreement.flips, agreement.is_good) == (3, False)
    assert limit == name[:-1]


def test_inside_the_band_that_a_person_looks_at_a_flip_does_no_harm(bottle):
    engine = exact_engine(bottle.backbone, sha256=bottle.manifest.backbone.sha256)
    reference = read_reference(bottle.reference)
    found = reference.defect_probabilities
    near = np.where(found >= 0.4, 0.39, 0.41).astype(np.float32)  # the band is 0.3 to 0.5
    assert (
        measure_agreement(engine, bottle, replace(reference, defect_probabilities=near)).flips == 0
    )


def test_not_a_number_never_agrees(bottle):
    reference = read_reference(bottle.reference)
    spoiled = replace(reference, defect_probabilities=reference.defect_probabilities * np.nan)
    engine = exact_engine(bottle.backbone, sha256=bottle.manifest.backbone.sha256)
    assert not measure_agreement(engine, bottle, spoiled).is_good


def test_training_reads_in_fp32(bottle):
    name = exact_engine(bottle.backbone, sha256=bottle.manifest.backbone.sha256).name
    assert name == openvino_engine.FP32
    assert TorchEngine.name in choice.NAMES
