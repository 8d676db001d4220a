"""Pretraining of the bundled backbone on rendered pictures.

    python -m worker.train.pretraining --seed 0 --work pretraining --out worker/bundles

Training all of DenseNet-121 takes a GPU or days. But random early layers already keep what there
is to see, so they stay as they are: their maps of some ten thousand rendered views are computed
once, and only what follows the third dense block is trained on them, the last transition and the
last block. Three things are asked of the feature maps, cell by cell, and all of them need what a
defect leaves in a picture rather than what the picture shows:

- which cells are defective, by one linear layer for all products;
- which cells are defective, by a ridge regression that is fitted to some views of a product and
  read on its other views (Bertinetto et al., ICLR 2019): what the head of a product has to do;
- of which kind the defect is.

A killed run goes on where it was when it is called again.
"""

import argparse
import math
import sys
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from shared.errors import InvalidInput
from worker.inspect.backbone import CELLS, CHANNELS, freeze
from worker.inspect.preprocess import to_classifier_input
from worker.train.backbone import PICTURES, make_backbone, write_backbone
from worker.train.pretraining_views import RENDERED, VIEWS, Bottles, draw_product
from worker.train.progress import Progress, print_progress, silent

PRODUCTS = 700
EPOCHS = 4
PER_STEP = 4
"""Products in one step."""
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.02
WEIGHTS = {"everywhere": 1.0, "local": 1.0, "whole": 0.5, "kind": 0.2}

_FIRST_TRAINED = "transition3"
_EARLY_SHAPE = (1024, 16, 16)
_WARM_UP = 1 / 12
_DEFECTIVE_WEIGHT = 3.0
"""Of a defective cell against a sound one: there are some twenty-five sound ones to one."""


class Questions(nn.Module):
    """What is asked of the backbone while it is pretrained; thrown away afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.defective = _asking(1)
        self.kind = _asking(RENDERED + 1)
        self.ridge = nn.Parameter(torch.tensor(0.0))
        self.scale = nn.Parameter(torch.tensor([2.0, 2.0]))
        self.shift = nn.Parameter(torch.tensor(-1.0))

    def losses(self, maps: Tensor, cover: Tensor, kinds: Tensor) -> dict[str, Tensor]:
        """What the answers are off by.

        maps (P * VIEWS, 1024, h, w) after norm5, product by product; cover (P * VIEWS, h, w) in
        [0, 1]; kinds (P * VIEWS,), -1 for sound views.
        """
        cells = torch.relu(maps)
        rows, ys, xs = torch.nonzero((cover > 0.3) & (kinds >= 0)[:, None, None], as_tuple=True)
        by_kind = self.kind(cells).permute(0, 2, 3, 1)[rows, ys, xs]
        local, whole = self._by_regression(cells, cover)
        return {
            "everywhere": _binary(self.defective(cells)[:, 0], cover),
            "kind": F.cross_entropy(by_kind, kinds[rows]) if len(rows) else maps.new_zeros(()),
            "local": local,
            "whole": whole,
        }

    def _by_regression(self, cells: Tensor, cover: Tensor) -> tuple[Tensor, Tensor]:
        by_product = cells.flatten(2).transpose(1, 2).unflatten(0, (-1, VIEWS))  # type: ignore[no-untyped-call]
        wanted = cover.flatten(1).unflatten(0, (-1, VIEWS))  # type: ignore[no-untyped-call]
        is_damaged = (torch.arange(VIEWS) % 2).float().expand(len(wanted), VIEWS)
        # Views 0, 1, 4, 5, … against 2, 3, 6, 7, …: both halves have sound and damaged ones.
        halves = [torch.tensor([v for v in range(VIEWS) if v // 2 % 2 == half]) for half in (0, 1)]
        local = whole = cells.new_zeros(())
        for fitted, read in (halves, halves[::-1]):
            answers = self._regress(
                by_product[:, fitted].flatten(1, 2),
                wanted[:, fitted].flatten(1),
                by_product[:, read].flatten(1, 2),
            )
            local = local + _binary(
                self.scale[0] * answers + self.shift, wanted[:, read].flatten(1)
            )
            pooled = by_product.mean(dim=2)
            answers = self._regress(pooled[:, fitted], is_damaged[:, fitted], pooled[:, read])
            whole = whole + F.binary_cross_entropy_with_logits(
                self.scale[1] * (answers - 0.5), is_damaged[:, read]
            )
        return local / 2, whole / 2

    def _regress(self, known: Tensor, wanted: Tensor, asked: Tensor) -> Tensor:
        """Ridge regression product by product: (P, N, C), (P, N), (P, M, C) to (P, M)."""
        centre = known.mean(dim=1, keepdim=True)
        size = (known - centre).square().sum(dim=2).mean(dim=1)[:, None, None].clamp(min=1e-6)
        known, asked = (known - centre) / size.sqrt(), (asked - centre) / size.sqrt()
        gram = known @ known.transpose(1, 2)
        mean = wanted.mean(dim=1, keepdim=True)
        factor = torch.linalg.cholesky(gram + F.softplus(self.ridge) * torch.eye(gram.shape[1]))
        dual = torch.cholesky_solve((wanted - mean)[..., None], factor)
        answers: Tensor = (asked @ known.transpose(1, 2) @ dual)[..., 0] + mean
        return answers


def _asking(answers: int) -> nn.Conv2d:
    layer = nn.Conv2d(CHANNELS, answers, 1)
    nn.init.normal_(layer.weight, std=0.01)
    return layer


def _binary(logits: Tensor, wanted: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(
        logits, wanted, pos_weight=torch.tensor(_DEFECTIVE_WEIGHT)
    )


@dataclass(frozen=True)
class EarlyMaps:
    """What the frozen layers make of all views: on disk, because it is half a megabyte a view."""

    maps: NDArray[np.float16]  # (N, VIEWS, 1024, 16, 16)
    cover: NDArray[np.float32]  # (N, VIEWS, 8, 8)
    kinds: NDArray[np.int64]  # (N, VIEWS)


def split_backbone(backbone: nn.Sequential) -> tuple[nn.Sequential, nn.Sequential]:
    """The layers that stay, and those that are trained; both share the backbone's weights."""
    layers = list(backbone.named_children())
    first = [name for name, _ in layers].index(_FIRST_TRAINED)
    return nn.Sequential(OrderedDict(layers[:first])), nn.Sequential(OrderedDict(layers[first:]))


@torch.inference_mode()
def compute_early_maps(
    early: nn.Sequential, work: Path, *, seed: int, products: int, progress: Progress = silent
) -> EarlyMaps:
    """Draw all products and run the frozen layers over them, from where `work` left off."""
    work.mkdir(parents=True, exist_ok=True)
    count = work / f"products-done-seed-{seed}"
    if not count.is_file() and any(work.iterdir()):
        raise InvalidInput(f"{work} is of another pretraining: name an empty folder", field="work")
    if not count.is_file():
        count.write_text("0")
    done = int(count.read_text())
    mode = "r+" if done else "w+"
    found = EarlyMaps(
        _open(work / "maps.npy", mode, np.float16, (products, VIEWS, *_EARLY_SHAPE)),
        _open(work / "cover.npy", mode, np.float32, (products, VIEWS, CELLS, CELLS)),
        _open(work / "kinds.npy", mode, np.int64, (products, VIEWS)),
    )
    if done == products:
        return found
    early = early.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    bottles = Bottles(seed, progress)
    with ThreadPoolExecutor(max_workers=1) as drawing:
        coming = drawing.submit(draw_product, seed, done, bottles)
        for number in range(done, products):
            views = coming.result()
            coming = drawing.submit(draw_product, seed, number + 1, bottles)
            photos = to_classifier_input(views.pictures)
            with torch.autocast("cpu", torch.bfloat16):
                maps = early(photos.contiguous(memory_format=torch.channels_last))
            found.maps[number] = maps.half().numpy()
            found.cover[number], found.kinds[number] = views.cover, views.kinds
            unfinished = count.with_suffix(".tmp")
            unfinished.write_text(str(number + 1))
            unfinished.replace(count)
            progress("early maps", number + 1, products)
    return found


def _open(file: Path, mode: str, kind: type, shape: tuple[int, ...]) -> NDArray[Any]:
    opened: NDArray[Any] = np.lib.format.open_memmap(file, mode, kind, shape)
    if opened.shape != shape:
        raise InvalidInput(f"{file} is of another pretraining: name an empty folder", field="work")
    return opened


def train_late_layers(
    late: nn.Sequential,
    early: EarlyMaps,
    checkpoint: Path,
    *,
    seed: int,
    epochs: int = EPOCHS,
    progress: Progress = silent,
) -> None:
    """Train the late layers in place, from the last finished epoch of the checkpoint."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        questions = Questions()
    late.requires_grad_(True).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    both = nn.ModuleList([late, questions])
    weights = list(both.parameters())
    optimiser = torch.optim.AdamW(
        [
            {"params": [w for w in weights if w.ndim > 1], "weight_decay": WEIGHT_DECAY},
            {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
    )
    per_epoch = len(early.maps) // PER_STEP
    for epoch in range(_resume(checkpoint, both, optimiser), epochs):
        rng = np.random.default_rng([seed, 4, epoch])
        order = rng.permutation(len(early.maps))
        for step in range(per_epoch):
            done = (epoch * per_epoch + step) / (epochs * per_epoch)
            for group in optimiser.param_groups:
                group["lr"] = LEARNING_RATE * _share_of_rate(done)
            chosen = order[step * PER_STEP : (step + 1) * PER_STEP]
            maps, cover = _laid(rng, early.maps[chosen], early.cover[chosen])
            with torch.autocast("cpu", torch.bfloat16):
                answers = late(maps.contiguous(memory_format=torch.channels_last))
            losses = questions.losses(
                answers.float(), cover, torch.from_numpy(early.kinds[chosen]).flatten()
            )
            total = torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum()
            optimiser.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(weights, 2.0)
            optimiser.step()
            progress("late layers", epoch * per_epoch + step + 1, epochs * per_epoch)
        _save(checkpoint, both, optimiser, epoch + 1)
    freeze(late)


def _laid(
    rng: np.random.Generator, maps: NDArray[np.float16], cover: NDArray[np.float32]
) -> tuple[Tensor, Tensor]:
    """The views of a step, (P, VIEWS, …) to (P * VIEWS, …), turned and mirrored all alike."""
    turns, is_mirrored = int(rng.integers(4)), rng.random() < 0.5

    def lay(values: NDArray[Any]) -> Tensor:
        laid = np.rot90(values, turns, axes=(-2, -1))
        laid = np.ascontiguousarray(laid[..., ::-1] if is_mirrored else laid)
        return torch.from_numpy(laid).flatten(0, 1).float()

    return lay(maps), lay(cover)


def _share_of_rate(done: float) -> float:
    """A twelfth of the way up, then down along a cosine."""
    if done < _WARM_UP:
        return (done + 0.01) / (_WARM_UP + 0.01)
    return 0.5 * (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP)))


def _resume(checkpoint: Path, both: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """The number of epochs that are done already."""
    if not checkpoint.is_file():
        return 0
    state = torch.load(checkpoint, weights_only=True)
    both.load_state_dict(state["weights"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["epoch"])


def _save(checkpoint: Path, both: nn.Module, optimiser: torch.optim.Optimizer, epoch: int) -> None:
    unfinished = checkpoint.with_suffix(".tmp")
    state = {"weights": both.state_dict(), "optimiser": optimiser.state_dict(), "epoch": epoch}
    torch.save(state, unfinished)
    unfinished.replace(checkpoint)


def pretrain(
    *,
    seed: int,
    work: Path,
    products: int = PRODUCTS,
    epochs: int = EPOCHS,
    progress: Progress = silent,
) -> nn.Sequential:
    """The backbone, frozen. `work`: a folder for what is finished; 10 GB, may be deleted after."""
    backbone = make_backbone(seed=seed, progress=progress)
    early, late = split_backbone(backbone)
    maps = compute_early_maps(early, work, seed=seed, products=products, progress=progress)
    train_late_layers(late, maps, work / "late.pt", seed=seed, epochs=epochs, progress=progress)
    return backbone


def provenance(seed: int) -> str:
    """Where the weights of `pretrain` come from, in words."""
    return (
        f"DenseNet-121, pretrained on {PRODUCTS * VIEWS} views of {PRODUCTS} products, all "
        f"rendered by this project (seed {seed}): parts and materials of all sorts, a quarter "
        "bottles, half of the views with synthetic or rendered defects. The layers up to the third "
        f"dense block are random sparse filters with batch norms calibrated on {PICTURES} of its "
        f"pictures; the last transition and block were trained for {EPOCHS} epochs to find the "
        "defects. No photo and no foreign weights."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the bundled backbone.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True, help="folder to go on from when killed")
    parser.add_argument("--out", type=Path, required=True, help="folder of the file")
    arguments = parser.parse_args()
    backbone = pretrain(seed=arguments.seed, work=arguments.work, progress=print_progress)
    path = write_backbone(backbone, arguments.out, provenance=provenance(arguments.seed))
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
