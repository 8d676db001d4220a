"""From prepared photos to judgements: one backbone pass, whatever the products.

Only heads and autoencoders differ by product. What a photo gets depends on its
own pixels and its model, never on the photos that happen to be in its batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.errors import InvalidInput
from shared.manifest import Limits
from shared.verdicts import Outcome, Scores, decide
from worker.inspect.autoencoder import anomaly_score
from worker.inspect.backbone import pool
from worker.inspect.bundle import ProductModel
from worker.inspect.engines.protocol import Engine
from worker.inspect.gradcam import evidence, gradcam
from worker.inspect.head import defect_probability
from worker.inspect.overlay import draw_overlay, scale
from worker.inspect.preprocess import Photo, quality_reasons
from worker.inspect.regions import outline


@dataclass(frozen=True)
class Judgement:
    """What one photo got, and the maps that show why.

    The two pictures are drawn when asked for, so that whoever stores them can do
    it in another thread while the next batch is judged.
    """

    scores: Scores
    outcome: Outcome
    photo: NDArray[np.uint8] = field(repr=False)  # (256, 256, 3) RGB
    attention: NDArray[np.float32] = field(repr=False)
    """Grad-CAM beyond that of good parts (8, 8), at least 0, in units of the logit."""
    strangeness: NDArray[np.float32] = field(repr=False)
    """Raw anomaly map (256, 256), standard deviations."""
    limits: Limits = field(repr=False)
    """The bundle's fixed scales, by which the maps are drawn."""
    anomaly_threshold: float

    def overlay(self) -> bytes:
        """JPEG, 256 x 256: where the classifier looked."""
        return draw_overlay(self.photo, scale(self.attention, 0.0, self.limits.gradcam_high))

    def anomaly_map(self) -> bytes:
        """JPEG, 256 x 256: where the photo differs from good parts."""
        heat = scale(self.strangeness, self.limits.anomaly_low, self.limits.anomaly_high)
        return draw_overlay(self.photo, heat)

    def anomaly_regions(self) -> list[list[list[float]]]:
        """Polygons around what is strange enough to call the part anomalous."""
        return outline(self.strangeness, self.anomaly_threshold)


@dataclass(frozen=True)
class Readings:
    """The raw numbers of a batch of one product, on the CPU, before thresholds and scales."""

    defect_probabilities: Tensor  # (B,)
    attention: Tensor  # (B, 8, 8), Grad-CAM beyond that of good parts
    domain_distances: Tensor  # (B,)
    mses: Tensor  # (B,)
    strangeness: Tensor  # (B, 256, 256), standard deviations
    anomaly_scores: Tensor  # (B,)


class Inspector:
    """Judges photos with one engine; safe to share between threads."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def features(self, photos: Sequence[Photo]) -> Tensor:
        """The backbone pass alone, for photos that several models of one backbone judge.

        Returns (B, 1024, 8, 8), after norm5.
        """
        return self.engine.features(_stack(photos))

    @torch.inference_mode()
    def judge(
        self,
        photos: Sequence[Photo],
        models: Sequence[ProductModel],
        maps: Tensor | None = None,
    ) -> list[Judgement]:
        """Judge each photo with the model of the same place in `models`.

        maps (B, 1024, 8, 8): what `features` gave for these photos, if it was asked already.
        Raises InvalidInput for a model that was trained on another backbone than
        the engine holds.
        """
        for model in models:
            if model.manifest.backbone.sha256 != self.engine.backbone_sha256:
                raise InvalidInput(
                    f"{model.manifest.product} was trained on backbone "
                    f"{model.manifest.backbone.sha256}, the engine holds "
                    f"{self.engine.backbone_sha256}"
                )
        by_model: dict[str, list[int]] = {}
        for index, (_, model) in enumerate(zip(photos, models, strict=True)):
            by_model.setdefault(model.digest, []).append(index)
        if not by_model:
            return []
        pixels = _stack(photos)
        if maps is None:
            maps = self.engine.features(pixels)
        judgements: dict[int, Judgement] = {}
        for indices in by_model.values():
            model = models[indices[0]]
            readings = self.read(pixels[indices], maps[indices], model)
            for row, index in enumerate(indices):
                judgements[index] = _judge_one(photos[index], readings, row, model)
        return [judgements[index] for index in range(len(photos))]

    @torch.inference_mode()
    def read(self, pixels: NDArray[np.uint8], maps: Tensor, model: ProductModel) -> Readings:
        """Everything that the models say of a batch of one product.

        pixels (B, 256, 256, 3) RGB; maps (B, 1024, 8, 8) after norm5, as `features` gave them.
        """
        parts = self.engine.parts_of(model)
        anomalies = self.engine.anomalies(pixels, model)
        deviations = parts.good_features.deviations(maps)
        pooled = parts.head.pool(deviations)
        return Readings(
            defect_probability(parts.head.logits(pooled), model.manifest.temperature).cpu(),
            gradcam(evidence(deviations, pooled, parts.head), parts.good_evidence).cpu(),
            parts.domain.distance(pool(maps)).cpu(),
            anomalies.mses.cpu(),
            anomalies.maps.cpu(),
            anomaly_score(anomalies.maps).cpu(),
        )


def _stack(photos: Sequence[Photo]) -> NDArray[np.uint8]:
    return np.stack([photo.pixels for photo in photos])  # (B, 256, 256, 3)


def _judge_one(photo: Photo, readings: Readings, row: int, model: ProductModel) -> Judgement:
    manifest = model.manifest
    scores = Scores(
        defect_probability=float(readings.defect_probabilities[row]),
        mse=float(readings.mses[row]),
        anomaly_score=float(readings.anomaly_scores[row]),
        domain_distance=float(readings.domain_distances[row]),
        quality_reasons=quality_reasons(photo.quality, manifest.quality),
    )
    return Judgement(
        scores,
        decide(scores, manifest.thresholds),
        photo.pixels,
        # Copies: a view would keep the maps of the whole batch alive with each photo.
        readings.attention[row].numpy().copy(),
        readings.strangeness[row].numpy().copy(),
        manifest.limits,
        manifest.thresholds.anomaly_score,
    )
