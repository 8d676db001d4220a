"""The obvious pipeline, step by step as the published walkthrough has it: plain PyTorch in fp32.

One pass for the verdict, a second one for Grad-CAM by the `grad-cam` library, one of the
autoencoder, and the overlay as a PNG.
"""

import cv2
import numpy as np
import torch
from torch import nn

from worker.inspect.backbone import load_backbone
from worker.inspect.bundle import ProductModel
from worker.inspect.inputs import to_autoencoder_input, to_classifier_input
from worker.inspect.torchvision_import import densenet121


class Obvious:
    """Takes as many photos at once as it is given.

    The work is the walkthrough's, the numbers mean nothing: our heads read deviations from good
    parts, and here they get plain averages.
    """

    def __init__(self, model: ProductModel) -> None:
        # After torchvision_import, which it would otherwise come before.
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        self.target = ClassifierOutputTarget(1)
        head = model.parts.head
        network = densenet121(weights=None)
        network.features = load_backbone(model.backbone)
        first, second = nn.Linear(1024, 256), nn.Linear(256, 2)
        first.weight.data, first.bias.data = head.hidden_weight, head.hidden_bias
        second.weight.data, second.bias.data = head.output_weight, head.output_bias
        network.classifier = nn.Sequential(first, nn.ReLU(), nn.Dropout(0.4), second)
        # The library needs gradients through the frozen layers.
        self.network = network.eval().requires_grad_(True)
        self.autoencoder = model.parts.autoencoder
        self.gradcam = GradCAM(self.network, [self.network.features.norm5])

    def judge(self, files: list[bytes]) -> list[tuple[float, float, bytes]]:
        """Defect probability, MSE and overlay of each photo."""
        pixels = np.stack([_resized(data) for data in files])
        inputs = to_classifier_input(pixels)
        with torch.no_grad():
            probabilities = self.network(inputs).softmax(dim=1)[:, 1]
            plain = to_autoencoder_input(pixels)
            mses = (self.autoencoder(plain) - plain).square().mean(dim=(1, 2, 3))
        heats = self.gradcam(inputs, [self.target] * len(files))
        return [
            (probability.item(), mse.item(), _overlay(photo, heat))
            for probability, mse, photo, heat in zip(
                probabilities, mses, pixels, heats, strict=True
            )
        ]


def _resized(data: bytes) -> np.ndarray:
    photo = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    return cv2.resize(photo, (256, 256), interpolation=cv2.INTER_AREA)


def _overlay(photo: np.ndarray, heat: np.ndarray) -> bytes:
    colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_JET)
    overlay = cv2.addWeighted(cv2.cvtColor(photo, cv2.COLOR_RGB2BGR), 0.55, colours, 0.45, 0)
    return cv2.imencode(".png", overlay)[1].tobytes()
