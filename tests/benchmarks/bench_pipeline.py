"""The pipeline against the obvious one, on the same photos in the same run.

    make bench

The baseline is what the method's description leads to when it is written down
step by step: one photo at a time, torch in eager mode, Grad-CAM as a second
pass by the library that everyone uses, the overlay as PNG. Both judge the same
rendered photos with the same bundle, from encoded bytes to encoded overlay.
Rounds alternate, so that a noisy machine troubles both alike. The last line is
JSON.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from worker.inspect.backbone import load_backbone
from worker.inspect.bundle import ProductModel
from worker.inspect.files import open_bundle
from worker.inspect.pipeline import Inspector
from worker.inspect.preprocess import prepare, to_autoencoder_input, to_classifier_input
from worker.inspect.torchvision_import import densenet121
from worker.train.render import render_bottle

ROOT = Path(__file__).parents[2]
BATCH = 16


class Obvious:
    """The walkthrough, step by step."""

    def __init__(self, model: ProductModel, features: nn.Module) -> None:
        # After torchvision_import, which it would otherwise come before.
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        self.targets = [ClassifierOutputTarget(1)]
        head = model.parts.head
        network = densenet121(weights=None)
        network.features = features
        first, second = nn.Linear(1024, 256), nn.Linear(256, 2)
        first.weight.data, first.bias.data = head.hidden_weight, head.hidden_bias
        second.weight.data, second.bias.data = head.output_weight, head.output_bias
        network.classifier = nn.Sequential(first, nn.ReLU(), nn.Dropout(0.4), second)
        # The library needs gradients through the frozen layers.
        self.network = network.eval().requires_grad_(True)
        self.autoencoder = model.parts.autoencoder
        self.gradcam = GradCAM(self.network, [self.network.features.norm5])

    def judge(self, data: bytes) -> tuple[float, float, bytes]:
        photo = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        pixels = cv2.resize(photo, (256, 256), interpolation=cv2.INTER_AREA)[None]
        inputs = to_classifier_input(pixels)
        with torch.no_grad():
            probability = self.network(inputs).softmax(dim=1)[0, 1].item()
            plain = to_autoencoder_input(pixels)
            mse = (self.autoencoder(plain) - plain).square().mean().item()
        heat = self.gradcam(inputs, self.targets)[0]
        colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_JET)
        overlay = cv2.addWeighted(
            cv2.cvtColor(pixels[0], cv2.COLOR_RGB2BGR), 0.55, colours, 0.45, 0
        )
        return probability, mse, cv2.imencode(".png", overlay)[1].tobytes()


def ours(inspector: Inspector, model: ProductModel, photos: list[bytes]) -> list[float]:
    probabilities = []
    for first in range(0, len(photos), BATCH):
        prepared = [prepare(data) for data in photos[first : first + BATCH]]
        for judgement in inspector.judge(prepared, [model] * len(prepared)):
            _ = judgement.overlay, judgement.anomaly_map
            probabilities.append(judgement.scores.defect_probability)
    return probabilities


def images_per_second(run: Callable[[], object], images: int) -> float:
    started = time.perf_counter()
    run()
    return images / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    rng = np.random.default_rng(0)
    labels = ("good", "broken_large", "broken_small", "contamination")
    photos = []
    for index in range(arguments.photos):
        image = render_bottle(rng, labels[index % 4]).image
        photos.append(cv2.imencode(".png", image[:, :, ::-1])[1].tobytes())
    inspector, model = open_bundle(ROOT / "worker" / "bundles" / "bottle")
    obvious = Obvious(model, load_backbone(model.backbone))

    def as_everyone() -> list[Tensor]:
        return [obvious.judge(data) for data in photos]

    def as_we() -> list[float]:
        return ours(inspector, model, photos)

    as_we(), as_everyone()  # warm
    rates: dict[str, list[float]] = {"ours": [], "obvious": []}
    for _ in range(arguments.rounds):
        rates["obvious"].append(images_per_second(as_everyone, len(photos)))
        rates["ours"].append(images_per_second(as_we, len(photos)))
    ratios = [a / b for a, b in zip(rates["ours"], rates["obvious"], strict=True)]
    for name, values in rates.items():
        print(
            f"{name:8} {statistics.median(values):6.2f} images/s  ({min(values):.2f} to "
            f"{max(values):.2f} over {len(values)} rounds)"
        )
    print(f"ratio    {statistics.median(ratios):6.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")
    print(
        json.dumps(
            {
                "bench": "pipeline",
                "images_per_s": round(statistics.median(rates["ours"]), 2),
                "ratios": {"obvious": round(statistics.median(ratios), 2)},
                "spread": [round(min(ratios), 2), round(max(ratios), 2)],
                "photos": f"{len(photos)} rendered PNG of 900 x 900",
                "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
                "torch": torch.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
