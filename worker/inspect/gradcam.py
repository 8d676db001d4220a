"""Grad-CAM (Selvaraju et al. 2017) of the defect class at `features.norm5`, in closed form.

After norm5 come only a ReLU, the mean over cells and the head, so the gradient
of the defect logit is a product of the head's weights and of masks: no second
pass through the network and no autograd.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.inspect.head import DEFECTIVE, Head


@dataclass(frozen=True)
class GoodEvidence:
    """What good parts have at each cell, on average: a rim or a corner that always speaks."""

    mean: Tensor  # (H, W), in units of the logit


def evidence(maps: Tensor, fingerprints: Tensor, head: Head) -> Tensor:
    """How strongly each cell speaks for a defect, or against one: Grad-CAM before its ReLU.

    maps (B, 1024, H, W) after norm5 and before the ReLU; fingerprints (B, 1024)
    are those maps pooled. Returns (B, H, W), in units of the logit.
    """
    cells = maps.shape[2] * maps.shape[3]
    is_firing = (head.hidden(fingerprints) > 0).to(maps.dtype)  # (B, 256)
    by_fingerprint = (is_firing * head.output_weight[DEFECTIVE]) @ head.hidden_weight  # (B, 1024)
    # d fingerprint / d map is 1/cells where the map is positive, else 0; Grad-CAM
    # weighs each channel by the mean of its gradient over the cells.
    share_positive = (maps > 0).to(maps.dtype).mean(dim=(2, 3))  # (B, 1024)
    channel_weights = by_fingerprint * share_positive / cells
    return torch.einsum("bc,bchw->bhw", channel_weights, maps)


def gradcam(evidences: Tensor, good: GoodEvidence) -> Tensor:
    """What speaks for a defect beyond what good parts have there: (B, H, W), at least 0.

    Held against zeros it is Grad-CAM as it was published. Then the same corners are hot in every
    photo, good ones too, and hide what a defect adds.
    """
    return torch.relu(evidences - good.mean)
