"""A small product model on a random backbone: real layers, real files, no training."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from shared.manifest import Augmentation, DataCard, Limits, Manifest, QualityLimits, Thresholds
from worker.decoding import Decoder
from worker.inspect import preprocess
from worker.inspect.autoencoder import Autoencoder, ResidualStats
from worker.inspect.backbone import build_backbone, digest_of, save_backbone
from worker.inspect.bundle import MODEL, Parts, artifact_of, rounded, write_bundle, write_parts
from worker.inspect.domain import Domain
from worker.inspect.engines.torch_engine import TorchEngine
from worker.inspect.good_features import GoodFeatures
from worker.inspect.gradcam import GoodEvidence
from worker.inspect.head import Head
from worker.inspect.preprocess import Photo, measure_quality
from worker.inspect.reference import REFERENCE, write_reference
from worker.train.reference import make_reference

# Torch's threads wait by spinning: beside other work on the same cores, two take many times as
# long as one.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def photos() -> list[Photo]:
    """Ten pictures of blobs and noise, each another one."""
    rng = np.random.default_rng(7)
    return [_photo(rng) for _ in range(10)]


@pytest.fixture(scope="session")
def backbone_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(11)
    backbone = build_backbone()
    file = tmp_path_factory.mktemp("backbone") / "backbone-random.safetensors"
    save_backbone(backbone.state_dict(), file, provenance="random, for tests")
    return file


@pytest.fixture(scope="session")
def decoder() -> Iterator[Decoder]:
    decoder = Decoder(1)
    yield decoder
    decoder.stop()


@dataclass(frozen=True)
class BundleWriter:
    """Writes bundles of random models, each seed another model."""

    backbone: Path
    pixels: NDArray[np.uint8]
    maps: torch.Tensor
    """Of those pixels."""

    def __call__(self, folder: Path, *, seed: int = 0, product: str = "bottle") -> Manifest:
        with tempfile.TemporaryDirectory() as scratch:
            model, reference = Path(scratch) / MODEL, Path(scratch) / REFERENCE
            parts = self.parts(seed)
            write_parts(parts, model)
            write_reference(make_reference(self.pixels, self.maps, parts, TEMPERATURE), reference)
            manifest = make_manifest(self.backbone, model, reference, product=product)
            write_bundle(folder, manifest, files=[model, reference], backbone=self.backbone)
        return manifest

    @staticmethod
    def parts(seed: int) -> Parts:
        return make_parts(seed)


@pytest.fixture(scope="session")
def write_test_bundle(backbone_file: Path, photos: list[Photo]) -> BundleWriter:
    pixels = np.stack([photo.pixels for photo in photos[:3]])
    engine = TorchEngine(backbone_file, sha256=digest_of(backbone_file))
    return BundleWriter(backbone_file, pixels, engine.features(pixels))


def make_parts(seed: int) -> Parts:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    torch.manual_seed(seed)
    mixing = normal(1024, 1024) / 64
    return Parts(
        good_features=GoodFeatures(
            normal(1024, 8, 8), normal(1024, 8, 8).abs() + 0.1, torch.eye(1024) + mixing + mixing.T
        ),
        head=Head(
            normal(256, 1024) / 16, normal(256), normal(2, 256) / 16, normal(2), torch.tensor(1.0)
        ),
        autoencoder=rounded(Autoencoder()),
        good_residuals=ResidualStats(normal(256, 256).abs(), normal(256, 256).abs() + 0.1),
        good_evidence=GoodEvidence(torch.zeros(8, 8)),
        domain=Domain(
            mean=normal(1024),
            good_mean=normal(1024),
            directions=torch.linalg.qr(normal(1024, 20))[0].T.contiguous(),
            variances=normal(20).abs() + 0.5,
            floor=torch.tensor(0.3),
        ),
    )


TEMPERATURE = 1.5


def make_manifest(backbone: Path, model: Path, reference: Path, *, product: str) -> Manifest:
    digest = "sha256:" + "0" * 64
    return Manifest(
        product=product,
        created_at=datetime(2026, 3, 2, 12, 0, tzinfo=UTC),
        preprocess=preprocess.VERSION,
        seed=0,
        backbone=artifact_of(backbone),
        model=artifact_of(model),
        reference=artifact_of(reference),
        temperature=TEMPERATURE,
        thresholds=Thresholds(
            defect_probability=0.4,
            near_threshold_low=0.3,
            near_threshold_high=0.5,
            anomaly_score=3.0,
            domain_distance=50.0,
        ),
        policy="best-f1",
        limits=Limits(gradcam_high=1.0, anomaly_low=1.0, anomaly_high=6.0),
        quality=QualityLimits(
            min_sharpness=1.0, min_brightness=10.0, max_brightness=245.0, min_side=100
        ),
        augmentation=Augmentation(turned=False, gain=(1.0, 1.0)),
        defect_types=("scratched",),
        data=DataCard(counts={"good": 1}, trained_on=(digest,), held_out=(), digest=digest),
        metrics={},
        provenance="random numbers, for tests",
    )


def _photo(rng: np.random.Generator) -> Photo:
    coarse = rng.uniform(0, 255, (int(rng.integers(2, 40)),) * 2 + (3,)).astype(np.uint8)
    pixels = preprocess.resize(np.kron(coarse, np.ones((3, 3, 1), np.uint8)))
    return Photo(pixels, measure_quality(pixels))
