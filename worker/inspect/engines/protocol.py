"""What the pipeline asks of whatever runs the networks."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.inspect.bundle import Parts, ProductModel


@dataclass(frozen=True)
class Anomalies:
    """What an autoencoder says of a batch."""

    mses: Tensor  # (B,), in squares of [0, 1]
    maps: Tensor  # (B, 256, 256), standard deviations, at least 0


class Engine(Protocol):
    """Runs the frozen backbone and the autoencoders of the products on it.

    One engine holds one backbone. Several threads may call it at once. What a photo gets
    does not depend on the photos beside it.
    """

    @property
    def name(self) -> str:
        """What results call it, for instance `openvino-bf16`."""

    @property
    def backbone_sha256(self) -> str:
        """Digest of the backbone's file: only models trained on it can be judged."""

    @property
    def device(self) -> torch.device:
        """Where its answers are."""

    @property
    def batch_size(self) -> int:
        """Photos at a time that keep it busy; more would only make the urgent ones wait."""

    def parts_of(self, model: ProductModel) -> Parts:
        """The model's parts where the answers are."""

    def features(self, photos: NDArray[np.uint8]) -> Tensor:
        """Maps after norm5, before the ReLU.

        photos (B, 256, 256, 3) RGB. Returns (B, 1024, 8, 8), fp32.
        """

    def anomalies(self, photos: NDArray[np.uint8], model: ProductModel) -> Anomalies:
        """The second opinion of this model. photos (B, 256, 256, 3) RGB."""
