"""Grad-CAM (Selvaraju et al. 2017) of the defect class at `features.norm5`, in closed form.

What norm5 gives is held against good parts (`good_features.py`). After that come only the mean
over cells and the head, so the gradient of the defect logit is a product of the head's weights
and of masks: no second pass through the network and no autograd. Where the mean is a generalised
one, the gradient differs from cell to cell and is taken there (HiResCAM, Draelos and Carin 2020);
for the average both are the same.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.inspect.head import DEFECTIVE, Head


@dataclass(frozen=True)
class GoodEvidence:
    """What good parts have at each cell, on average: a rim or a corner that always speaks."""

    mean: Tensor  # (H, W), in units of the logit


def evidence(deviations: Tensor, pooled: Tensor, head: Head) -> Tensor:
    """How strongly each cell speaks for a defect, or against one: Grad-CAM before its ReLU.

    deviations (B, 1024, H, W) of the maps after norm5; pooled (B, 1024) are those over all
    cells. Returns (B, H, W), in units of the logit.
    """
    cells = deviations.shape[2] * deviations.shape[3]
    is_firing = (head.hidden(pooled) > 0).to(deviations.dtype)  # (B, 256)
    by_channel = (is_firing * head.output_weight[DEFECTIVE]) @ head.hidden_weight  # (B, 1024)
    return torch.einsum("bc,bchw->bhw", by_channel / cells, head.shares(deviations, pooled))


def gradcam(evidences: Tensor, good: GoodEvidence) -> Tensor:
    """What speaks for a defect beyond what good parts have there: (B, H, W), at least 0.

    Held against zeros it is Grad-CAM as it was published. Then the same corners are hot in every
    photo, good ones too, and hide what a defect adds.
    """
    return torch.relu(evidences - good.mean)
