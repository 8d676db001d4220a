"""Every engine that can run on a CPU against plain PyTorch in fp32, on the same photos."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from shared.errors import DamagedBundle
from worker.inspect.backbone import digest_of
from worker.inspect.bundle import load_bundle
from worker.inspect.engines import cuda_engine, openvino_engine
from worker.inspect.engines.cuda_engine import CudaEngine
from worker.inspect.engines.openvino_engine import OpenVinoEngine, read_graph
from worker.inspect.engines.quantised import read_quantised_graph, write_quantised_graph
from worker.inspect.engines.torch_engine import TorchEngine
from worker.train.quantisation import quantise_graph


@pytest.fixture(scope="module")
def pixels(photos):
    """Few: bf16 without instructions for it takes seconds a photo."""
    return np.stack([photo.pixels for photo in photos[:4]])


@pytest.fixture(scope="module")
def bottle(tmp_path_factory, write_test_bundle):
    folder = tmp_path_factory.mktemp("models") / "bottle"
    write_test_bundle(folder, seed=1)
    return load_bundle(folder)


@pytest.fixture(scope="module")
def reference(bottle):
    return TorchEngine(bottle.backbone, sha256=bottle.manifest.backbone.sha256)


def make(name, model):
    sha256 = model.manifest.backbone.sha256
    if name.startswith("cuda"):
        # Without a GPU: the same layers, batches and precision, no streams and graphs.
        return CudaEngine(name, model.backbone, sha256=sha256, device="cpu")
    in_bf16 = name == openvino_engine.BF16
    graph = read_graph(model.backbone, sha256=sha256, in_bf16=in_bf16)
    return OpenVinoEngine(name, graph, backbone_sha256=sha256)


def is_openvino(engine):
    return engine.name.startswith("openvino")


@pytest.fixture(
    scope="module",
    params=[openvino_engine.FP32, openvino_engine.BF16, cuda_engine.FP32, cuda_engine.BF16],
)
def engine(request, bottle):
    return make(request.param, bottle)


def test_maps_are_the_reference_up_to_the_rounding_of_the_precision(engine, reference, pixels):
    expected = reference.features(pixels)
    maps = engine.features(pixels)
    assert maps.shape == (4, 1024, 8, 8)
    assert maps.dtype == torch.float32
    error = ((maps - expected).norm() / expected.norm()).item()
    assert error < (1e-5 if engine.name.endswith("fp32") else 0.05)


def test_the_second_opinion_is_fp32_on_every_engine(engine, reference, bottle, pixels):
    expected = reference.anomalies(pixels, bottle)
    found = engine.anomalies(pixels, bottle)
    torch.testing.assert_close(found.mses, expected.mses, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.maps, expected.maps, rtol=1e-4, atol=1e-4)


def test_what_a_photo_gets_does_not_depend_on_its_neighbours(engine, pixels):
    together = engine.features(pixels)
    alone = torch.cat([engine.features(pixels[i : i + 1]) for i in range(len(pixels))])
    exact = is_openvino(engine)
    torch.testing.assert_close(
        together, alone, rtol=0 if exact else 2e-2, atol=0 if exact else 5e-2
    )


def test_threads_that_share_an_engine_get_their_own_answers(engine, pixels):
    expected = engine.features(pixels)
    parts = [slice(0, 2), slice(2, 3), slice(1, 4), slice(2, 4)] * (3 if is_openvino(engine) else 1)
    with ThreadPoolExecutor(max_workers=4) as pool:
        answers = list(pool.map(lambda part: engine.features(pixels[part]), parts))
    for part, maps in zip(parts, answers, strict=True):
        torch.testing.assert_close(maps, expected[part], rtol=2e-2, atol=5e-2)


def test_batches_above_the_largest_graph_come_back_whole(bottle, pixels, monkeypatch):
    monkeypatch.setattr(cuda_engine, "_SIZES", (1, 2))
    engine = make(cuda_engine.FP32, bottle)
    torch.testing.assert_close(
        engine.features(pixels[:3])[2], engine.features(pixels[2:3])[0], rtol=1e-4, atol=1e-4
    )


def test_more_products_than_are_kept_compiled_all_get_their_own(
    bottle, reference, pixels, monkeypatch
):
    monkeypatch.setattr(openvino_engine, "_MOST_AUTOENCODERS", 1)
    engine = make(openvino_engine.FP32, bottle)
    stats = bottle.parts.good_residuals
    wider = replace(bottle.parts, good_residuals=replace(stats, std=stats.std * 2))
    other = replace(bottle, digest="sha256:" + "1" * 64, parts=wider)
    for model in (bottle, other, bottle):
        torch.testing.assert_close(
            engine.anomalies(pixels[:1], model).maps,
            reference.anomalies(pixels[:1], model).maps,
            rtol=1e-4,
            atol=1e-4,
        )


def test_the_graph_for_bf16_says_the_same_where_nothing_is_rounded(bottle, reference, pixels):
    sha256 = bottle.manifest.backbone.sha256
    graph = read_graph(bottle.backbone, sha256=sha256, in_bf16=True)
    engine = OpenVinoEngine(openvino_engine.FP32, graph, backbone_sha256=sha256)
    expected = reference.features(pixels)
    error = ((engine.features(pixels) - expected).norm() / expected.norm()).item()
    # Around the photo lies a whole number instead of the mean.
    assert error < 5e-4


def test_int8_survives_its_file_and_stays_near(bottle, reference, pixels, tmp_path):
    sha256 = bottle.manifest.backbone.sha256
    graph = quantise_graph(read_graph(bottle.backbone, sha256=sha256), list(pixels[:4]))
    file = tmp_path / "int8.safetensors"
    write_quantised_graph(graph, file)
    # A quarter of fp32, and nothing else left behind.
    assert file.stat().st_size < 10e6
    assert list(tmp_path.iterdir()) == [file]

    engine = OpenVinoEngine(
        openvino_engine.INT8, read_quantised_graph(file), backbone_sha256=sha256
    )
    expected = reference.features(pixels)
    error = ((engine.features(pixels) - expected).norm() / expected.norm()).item()
    assert 1e-4 < error < 0.5


@pytest.mark.parametrize("spoil", [lambda data: data[:1000], lambda data: data[:-9] + b"123456789"])
def test_a_backbone_that_is_not_of_its_digest_is_refused(bottle, tmp_path, spoil):
    file = tmp_path / "backbone.safetensors"
    file.write_bytes(spoil(bottle.backbone.read_bytes()))
    with pytest.raises(DamagedBundle):
        read_graph(file, sha256=bottle.manifest.backbone.sha256)


def test_a_file_that_is_no_backbone_is_refused_whatever_its_digest(bottle):
    model = bottle.reference.with_name(bottle.manifest.model.file)
    with pytest.raises(DamagedBundle):
        read_graph(model, sha256=digest_of(model))
    with pytest.raises(DamagedBundle):
        read_quantised_graph(model)


def test_openvino_tells_nobody_that_it_is_used():
    import sys

    assert sys.modules["openvino_telemetry"] is None
