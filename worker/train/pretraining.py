"""Pretraining of the bundled backbone on rendered pictures, from random weights.

    python -m worker.train.pretraining --seed 0 --out worker/bundles --checkpoint pretraining.pt

Three things are asked of the feature maps, cell by cell, and all of them need what a defect
leaves in a picture rather than what the picture shows:

- which cells are defective, by one linear layer for all products;
- which cells are defective, by a ridge regression that is fitted, within the batch, to some
  views of a product and read on its other views (Bertinetto et al., ICLR 2019): what the head
  of a product will have to do;
- of which kind the defect is.

A killed run goes on from its checkpoint, with the same pictures that it would have seen.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worker.inspect.backbone import CHANNELS, build_backbone
from worker.inspect.preprocess import to_classifier_input
from worker.train.pretraining_views import PRODUCTS, RENDERED, VIEWS, Bottles, Views, draw_views
from worker.train.progress import Progress, silent

STEPS = 2400
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.02
CHECKPOINT_EVERY = 50

_WARM_UP = 1 / 12


_EARLY = {"denseblock2": 512, "denseblock3": 1024}
"""Blocks that are also asked, with their channels: gradients reach the early layers sooner."""


def _asking(channels: int, answers: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels, answers, 1)
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _reading(channels: int) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), _asking(channels, 1))


class Questions(nn.Module):
    """What is asked of the backbone while it is pretrained; thrown away afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.defective = _asking(CHANNELS, 1)
        self.early = nn.ModuleList(_reading(channels) for channels in _EARLY.values())
        self.kind = _asking(CHANNELS, RENDERED + 1)
        self.ridge = nn.Parameter(torch.tensor(0.0))
        self.scale = nn.Parameter(torch.tensor([2.0, 2.0]))
        self.shift = nn.Parameter(torch.tensor([-1.0, -1.0]))

    def losses(
        self, early: Sequence[Tensor], maps: Tensor, covers: Sequence[Tensor], kinds: Tensor
    ) -> dict[str, Tensor]:
        """What the answers are off by.

        early: maps after the blocks of `_EARLY`; maps (B, 1024, h, w) after norm5; covers
        (B, h, w) in [0, 1] for each of them; kinds (B,), -1 for sound views.
        """
        *early_covers, cover = covers
        cells = torch.relu(maps)
        reached = maps.new_zeros(())
        for read, some, wanted in zip(self.early, early, early_covers, strict=True):
            reached = reached + F.binary_cross_entropy_with_logits(
                read(some)[:, 0], wanted, pos_weight=torch.tensor(3.0)
            )
        everywhere = F.binary_cross_entropy_with_logits(
            self.defective(cells)[:, 0], cover, pos_weight=torch.tensor(3.0)
        )
        rows, ys, xs = torch.nonzero((cover > 0.3) & (kinds >= 0)[:, None, None], as_tuple=True)
        by_kind = self.kind(cells).permute(0, 2, 3, 1)[rows, ys, xs]
        kind = F.cross_entropy(by_kind, kinds[rows]) if len(rows) else maps.new_zeros(())
        local, whole = self._by_regression(cells, cover)
        return {
            "early": reached,
            "everywhere": everywhere,
            "kind": kind,
            "local": local,
            "whole": whole,
        }

    def _by_regression(self, cells: Tensor, cover: Tensor) -> tuple[Tensor, Tensor]:
        flat = cells.flatten(2).transpose(1, 2)  # (B, hw, 1024)
        by_product = flat.view(PRODUCTS, VIEWS, *flat.shape[1:])
        wanted = cover.reshape(PRODUCTS, VIEWS, -1)  # (P, V, hw)
        is_damaged = (torch.arange(VIEWS) % 2).float().expand(PRODUCTS, VIEWS)
        # Views 0, 1, 4, 5, … against 2, 3, 6, 7, …: both halves have sound and damaged ones.
        halves = [torch.tensor([v for v in range(VIEWS) if v // 2 % 2 == half]) for half in (0, 1)]
        local = whole = cells.new_zeros(())
        for fitted, read in (halves, halves[::-1]):
            answers = self._regress(
                by_product[:, fitted].flatten(1, 2),
                wanted[:, fitted].flatten(1),
                by_product[:, read].flatten(1, 2),
            )
            local = local + F.binary_cross_entropy_with_logits(
                self.scale[0] * answers + self.shift[0],
                wanted[:, read].flatten(1),
                pos_weight=torch.tensor(3.0),
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
        ridge = F.softplus(self.ridge) * torch.eye(gram.shape[1])
        mean = wanted.mean(dim=1, keepdim=True)
        dual = torch.linalg.solve(gram + ridge, (wanted - mean)[..., None])
        answers: Tensor = (asked @ known.transpose(1, 2) @ dual)[..., 0] + mean
        return answers


WEIGHTS = {"early": 1.0, "everywhere": 1.0, "kind": 0.2, "local": 1.0, "whole": 0.5}


def pretrain(
    backbone: nn.Module,
    *,
    seed: int,
    checkpoint: Path,
    steps: int = STEPS,
    progress: Progress = silent,
) -> nn.Module:
    """Train the backbone's weights in place, from where the checkpoint is if there is one."""
    backbone = backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        questions = Questions()
    both = nn.ModuleDict({"backbone": backbone, "questions": questions})
    decayed = [weight for weight in both.parameters() if weight.ndim > 1]
    others = [weight for weight in both.parameters() if weight.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": WEIGHT_DECAY},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
    )
    done = _resume(checkpoint, both, optimiser)
    bottles = Bottles(seed, progress)
    both.train()
    running: dict[str, float] = {}
    with ThreadPoolExecutor(max_workers=1) as drawing:
        coming = drawing.submit(draw_views, seed, done, bottles)
        for step in range(done, steps):
            views = coming.result()
            coming = drawing.submit(draw_views, seed, step + 1, bottles)
            for group in optimiser.param_groups:
                group["lr"] = LEARNING_RATE * _share_of_rate(step / steps)
            losses = _step(backbone, questions, optimiser, views)
            for name, value in losses.items():
                running[name] = 0.96 * running.get(name, value) + 0.04 * value
            if (step + 1) % 25 == 0 or step + 1 == steps:
                _save(checkpoint, both, optimiser, step + 1)
                sys.stderr.write(
                    f"{step + 1} " + " ".join(f"{k}={v:.4f}" for k, v in running.items()) + "\n"
                )
            progress("pretraining", step + 1, steps)
    return backbone.eval()


def _step(
    backbone: nn.Module, questions: Questions, optimiser: torch.optim.Optimizer, views: Views
) -> dict[str, float]:
    photos = to_classifier_input(views.pictures).contiguous(memory_format=torch.channels_last)
    early: list[Tensor] = []
    with torch.autocast("cpu", torch.bfloat16):
        maps = photos
        for name, layer in backbone.named_children():
            maps = layer(maps)
            if name in _EARLY:
                early.append(maps.float())
    losses = questions.losses(
        early,
        maps.float(),
        [torch.from_numpy(cover) for cover in views.cover],
        torch.from_numpy(views.kinds),
    )
    total = torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum()
    optimiser.zero_grad()
    total.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_([*backbone.parameters(), *questions.parameters()], 2.0)
    optimiser.step()
    return {name: float(loss.detach()) for name, loss in losses.items()}


def _share_of_rate(done: float) -> float:
    """A twelfth of the way up, then down along a cosine."""
    if done < _WARM_UP:
        return (done + 0.01) / (_WARM_UP + 0.01)
    return 0.5 * (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP)))


def _resume(checkpoint: Path, both: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """The number of steps that are done already."""
    if not checkpoint.is_file():
        return 0
    state = torch.load(checkpoint, weights_only=True)
    both.load_state_dict(state["weights"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def _save(checkpoint: Path, both: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
    unfinished = checkpoint.with_suffix(".tmp")
    state = {"weights": both.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
    torch.save(state, unfinished)
    unfinished.replace(checkpoint)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--checkpoint", type=Path, required=True)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    backbone = build_backbone()
    pretrain(backbone, seed=arguments.seed, checkpoint=arguments.checkpoint, steps=arguments.steps)


if __name__ == "__main__":
    main()
