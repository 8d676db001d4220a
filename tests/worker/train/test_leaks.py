"""What is held out reaches neither training nor calibration, under whatever name it comes."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from shared.errors import UnusableData
from worker.inspect.engines.openvino_engine import OpenVinoEngine
from worker.inspect.preprocess import prepare
from worker.train import calibration, crossvalidation, features, quantisation
from worker.train import train as training
from worker.train.quantisation import quantise_graph
from worker.train.synthetic_defects import Damaged
from worker.train.train import train


@pytest.fixture(autouse=True)
def _short(short, monkeypatch):
    """And each photo as it is only: pictures are known by their pixels."""
    monkeypatch.setattr(features, "COPIES", 1)
    monkeypatch.setattr(quantisation, "quantise_graph", quantise_graph)


def picture(seed: list[int], *, is_defective: bool) -> np.ndarray:
    """A grained disc, no two alike; a defect is a dark spot on it."""
    rng = np.random.default_rng(seed)
    grain = cv2.GaussianBlur(rng.normal(0, 80, (150, 150, 3)), (0, 0), 1.5)
    image = np.full((150, 150, 3), 120.0)
    cv2.circle(image, (75, 75), 55, (200, 200, 200), -1)
    if is_defective:
        cv2.circle(image, tuple(int(c) for c in rng.integers(55, 95, 2)), 12, (20, 20, 20), -1)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def put(folder: Path, count: int, seed: int, *, is_defective: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image = picture([seed, number], is_defective=is_defective)
        cv2.imwrite(str(folder / f"{number:02d}.png"), image)


@pytest.fixture
def data(tmp_path):
    put(tmp_path / "data" / "train" / "good", 10, 1)
    put(tmp_path / "data" / "test" / "good", 2, 2)
    put(tmp_path / "data" / "test" / "spot", 9, 3, is_defective=True)
    return tmp_path / "data"


def digest(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def train_disc(data, out, backbone_file):
    return train(data, product="disc", out=out, backbone=str(backbone_file), seed=1)


class Watch:
    """Notes all pictures and qualities that the steps of training are given."""

    def __init__(self, monkeypatch) -> None:
        self.backbone: set[bytes] = set()
        self.autoencoder: set[bytes] = set()
        self.qualities: list[object] = []
        self.rows: dict[str, int] = {}
        engine_features = OpenVinoEngine.features
        fit, read = crossvalidation.staged_autoencoder, crossvalidation.read_errors
        domain, limits = training.fit_domain, calibration.quality_limits
        temperature = calibration.fit_temperature

        def note(pictures: set[bytes], batch: np.ndarray) -> None:
            pictures.update(np.ascontiguousarray(image).tobytes() for image in batch)

        def watched_features(engine, batch):
            note(self.backbone, batch)
            return engine_features(engine, batch)

        def watched_fit(name, good, **options):
            note(self.autoencoder, good)
            return fit(name, good, **options)

        def watched_read(model, batch):
            note(self.autoencoder, batch)
            return read(model, batch)

        def watched_domain(fingerprints, is_defective):
            self.rows["domain"] = len(fingerprints)
            return domain(fingerprints, is_defective)

        def watched_temperature(margins, is_defective, worth):
            self.rows["temperature"] = len(margins)
            return temperature(margins, is_defective, worth)

        def watched_limits(qualities):
            self.qualities = list(qualities)
            return limits(qualities)

        # The readings of all photos are calibrated on before those of the folds.
        first_only(monkeypatch, calibration, "fit_temperature", watched_temperature, temperature)
        first_only(monkeypatch, calibration, "quality_limits", watched_limits, limits)
        monkeypatch.setattr(OpenVinoEngine, "features", watched_features)
        for module in (crossvalidation, training):
            monkeypatch.setattr(module, "staged_autoencoder", watched_fit)
        monkeypatch.setattr(crossvalidation, "read_errors", watched_read)
        monkeypatch.setattr(training, "fit_domain", watched_domain)
        # Synthetic defects show nothing but the photo that they are drawn on.
        monkeypatch.setattr(
            features, "damage", lambda _, photo, __: Damaged(photo, np.zeros(0, bool), "none")
        )
        monkeypatch.setattr(features, "relit", lambda photos, _: photos)


def first_only(monkeypatch, module, name, watched, plain):
    calls = [plain, watched]

    def call(*given):
        return (calls.pop() if len(calls) > 1 else plain)(*given)

    monkeypatch.setattr(module, name, call)


def test_every_step_sees_the_photos_that_are_trained_on_and_no_others(
    data, tmp_path, backbone_file, monkeypatch
):
    watch = Watch(monkeypatch)
    manifest = train_disc(data, tmp_path / "disc", backbone_file)

    by_digest = {digest(path): prepare(path.read_bytes()) for path in data.rglob("*.png")}
    assert set(by_digest) == {*manifest.data.trained_on, *manifest.data.held_out}
    assert len(manifest.data.held_out) == 5
    allowed = [by_digest[seen] for seen in manifest.data.trained_on]
    pixels = {photo.pixels.tobytes() for photo in allowed}
    assert watch.backbone == pixels
    assert watch.autoencoder == pixels
    assert {(q.sharpness, q.brightness) for q in watch.qualities} == {
        (photo.quality.sharpness, photo.quality.brightness) for photo in allowed
    }
    good = manifest.data.counts["good"]
    # So few defects that good photos with synthetic ones are read as well.
    assert watch.rows == {"domain": len(allowed), "temperature": len(allowed) + good}


def test_whatever_the_held_out_photos_show_the_model_stays_the_same(data, tmp_path, backbone_file):
    first = train_disc(data, tmp_path / "a", backbone_file)
    for path in list(data.rglob("test/*/*.png")):
        if digest(path) in first.data.held_out:
            cv2.imwrite(str(path), 255 - cv2.imread(str(path)))
        else:
            # The choice of defects to train on follows the content of all: here it is given.
            (data / "train" / "spot").mkdir(exist_ok=True)
            path.rename(data / "train" / "spot" / path.name)
    second = train_disc(data, tmp_path / "b", backbone_file)

    assert set(second.data.held_out).isdisjoint(first.data.held_out)
    varying = {"created_at", "data"}
    assert second.model_dump(exclude=varying) == first.model_dump(exclude=varying)
    assert second.data.digest == first.data.digest


def slipped_in(data: Path, encode) -> tuple[Path, Path]:
    held_out = data / "test" / "good" / "01.png"
    slipped, image = encode(data / "train" / "good" / "holiday", cv2.imread(str(held_out)))
    if image is None:
        slipped.write_bytes(held_out.read_bytes())
    else:
        cv2.imwrite(str(slipped), image, [cv2.IMWRITE_JPEG_QUALITY, 75])
    return held_out, slipped


@pytest.mark.parametrize(
    "encode",
    [
        pytest.param(lambda path, _: (path.with_suffix(".png"), None), id="renamed"),
        pytest.param(lambda path, image: (path.with_suffix(".jpg"), image), id="as-jpeg"),
        pytest.param(
            lambda path, image: (path.with_suffix(".png"), cv2.resize(image, (225, 225))),
            id="enlarged",
        ),
        pytest.param(lambda path, image: (path.with_suffix(".png"), image[1:, :-1]), id="cropped"),
        pytest.param(
            lambda path, image: (path.with_suffix(".png"), cv2.convertScaleAbs(image, alpha=0.93)),
            id="darker",
        ),
    ],
)
def test_a_test_photo_among_the_training_photos_is_refused_before_training(data, tmp_path, encode):
    held_out, slipped = slipped_in(data, encode)
    with pytest.raises(UnusableData, match="train and") as raised:
        train(data, product="disc", out=tmp_path / "disc", backbone="/nowhere")
    assert str(held_out) in str(raised.value)
    assert str(slipped) in str(raised.value)
    assert not (tmp_path / "disc").exists()
