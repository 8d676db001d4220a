"""What the pipeline asks of whatever runs the backbone."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Engine(Protocol):
    """Runs the frozen backbone. One engine holds one backbone."""

    @property
    def name(self) -> str:
        """What results call it, for instance `torch-cpu`."""

    @property
    def backbone_sha256(self) -> str:
        """Digest of the backbone's file: only models trained on it can be judged."""

    def features(self, photos: NDArray[np.uint8]) -> Tensor:
        """Maps after norm5, before the ReLU.

        photos (B, 256, 256, 3) RGB. Returns (B, 1024, 8, 8), fp32, on the CPU.
        """
