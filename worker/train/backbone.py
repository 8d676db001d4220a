"""The bundled backbone: random weights, batch norms calibrated on rendered pictures.

    python -m worker.train.backbone --seed 0 --out worker/bundles

A random DenseNet-121 whose batch norms fit the pictures at hand is a strong
floor for small local differences, and needs neither a network nor anybody's
photos. The mix is broad, because one backbone serves every product.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from worker.inspect.backbone import build_backbone, digest_of, save_backbone
from worker.inspect.preprocess import SIDE, to_classifier_input
from worker.train.progress import Progress, print_progress, silent
from worker.train.render import LABELS, render_bottle
from worker.train.render_parts import render_parts

PICTURES = 256
BOTTLE_SHARE = 0.25
"""The rest are parts and materials of all sorts."""
INPUTS = 4
_PASS = 64


def make_backbone(*, seed: int, progress: Progress = silent) -> nn.Sequential:
    """A random DenseNet-121 with batch norms calibrated on rendered pictures.

    The same seed gives the same weights, up to the rounding of this machine's
    convolutions in the batch norms' statistics.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = build_backbone()
    randomise(backbone, torch.Generator().manual_seed(seed))
    calibrate_batch_norms(backbone, render_mix(seed, PICTURES, progress), progress)
    return backbone


def randomise(backbone: nn.Module, generator: torch.Generator) -> None:
    """Random weights that keep small local differences: few inputs, many levels.

    Each filter after the first layer reads `INPUTS` channels: sums over hundreds
    are all alike, whatever the picture. Half of the 3 x 3 filters see only
    differences, the others only sums. Batch norms get random shifts, so that
    ReLUs cut at many levels. A logistic regression on these features of 210
    photos of MVTec bottle had 0.957 and 0.969 out-of-fold AUROC in two draws, on
    torchvision's initialisation 0.940 to 0.960 in six.
    """
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Conv2d) and name != "conv0":
            filters, channels, height, width = module.weight.shape
            reads = torch.zeros(filters, channels)
            order = torch.rand(filters, channels, generator=generator).argsort(dim=1)
            reads.scatter_(1, order[:, :INPUTS], 1.0)
            weight = torch.randn(filters, channels, height, width, generator=generator)
            if height > 1:
                differs = torch.rand(filters, 1, 1, 1, generator=generator) < 0.5
                differences = weight - weight.mean(dim=(2, 3), keepdim=True)
                weight = torch.where(differs, differences, weight.abs())
            module.weight.data = weight * reads[:, :, None, None]
        elif isinstance(module, nn.BatchNorm2d) and name != "norm5":
            # Shifts in units of the deviation that calibration gives each channel.
            nn.init.uniform_(module.bias, -1.0, 1.0, generator=generator)


def render_mix(seed: int, count: int, progress: Progress = silent) -> NDArray[np.uint8]:
    """`count` rendered pictures in random order: (N, 256, 256, 3) RGB."""
    rng = np.random.default_rng(seed)
    is_bottle = rng.permutation(count) < round(BOTTLE_SHARE * count)
    pictures: list[NDArray[np.uint8]] = []
    for number in range(count):
        if is_bottle[number]:
            label = LABELS[int(rng.integers(len(LABELS)))]
            pictures.append(render_bottle(rng, label, SIDE).image)
        else:
            pictures.append(render_parts(rng, SIDE))
        progress("rendering pictures", number + 1, count)
    return np.stack(pictures)


@torch.no_grad()
def calibrate_batch_norms(
    backbone: nn.Module, pictures: NDArray[np.uint8], progress: Progress = silent
) -> None:
    """Set every batch norm's mean and variance to those of the pictures.

    One pass in training mode: each layer sees what the calibrated layers before
    it give. The statistics are the plain average over the batches.
    """
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    backbone.train()
    for first in range(0, len(pictures), _PASS):
        backbone(to_classifier_input(pictures[first : first + _PASS]))
        progress("calibrating batch norms", min(first + _PASS, len(pictures)), len(pictures))
    backbone.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def write_backbone(backbone: nn.Module, folder: Path, *, provenance: str) -> Path:
    """Save it as `backbone-<digest>.safetensors` and return the path."""
    folder.mkdir(parents=True, exist_ok=True)
    unnamed = folder / "backbone.safetensors"
    save_backbone(backbone.state_dict(), unnamed, provenance=provenance)
    digest = digest_of(unnamed).removeprefix("sha256:")
    return unnamed.replace(folder / f"backbone-{digest[:12]}.safetensors")


def provenance(seed: int) -> str:
    """Where the weights of `make_backbone` come from, in words."""
    return (
        f"DenseNet-121 with random weights (sparse filters, seed {seed}); batch "
        f"norms calibrated on {PICTURES} pictures rendered by this project, a quarter of them "
        "bottles, the rest parts and materials of all sorts. No photo and no foreign weights."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the bundled backbone.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder of the file")
    arguments = parser.parse_args()
    backbone = make_backbone(seed=arguments.seed, progress=print_progress)
    path = write_backbone(backbone, arguments.out, provenance=provenance(arguments.seed))
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
