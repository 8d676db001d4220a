"""Pretraining of the bundled backbone on rendered pictures, from random weights.

    python -m worker.train.pretraining --seed 0 --checkpoint pretraining.pt --out worker/bundles

Three things are asked of the feature maps, cell by cell, and all of them need what a defect
leaves in a picture rather than what the picture shows:

- which cells are defective, by one linear layer for all products;
- which cells are defective, by a ridge regression that is fitted, within the step, to some views
  of a product and read on its other views (Bertinetto et al., ICLR 2019): what the head of a
  product will have to do;
- of which kind the defect is.

What no rendered defect needs would be forgotten over that. So each cell is also asked what it
shows, whatever that is (`dense_targets.py`).

The second and third dense block are asked the first question too (Lee et al., AISTATS 2015):
gradients reach the early layers sooner, and what is seen best at a fine grain is learnt there.

A killed run goes on from its checkpoint, with the same pictures that it would have seen.
"""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from worker.inspect.backbone import CHANNELS, build_backbone, freeze
from worker.inspect.inputs import to_classifier_input
from worker.train.backbone import PICTURES, calibrate_batch_norms, render_mix, write_backbone
from worker.train.dense_targets import MEASURES, PIXELS, Targets, dense_targets
from worker.train.filter_bank import set_first_filters
from worker.train.pretraining_views import PRODUCTS, RENDERED, VIEWS, Bottles, Views, draw_views
from worker.train.progress import Progress, print_progress, silent

STEPS = 300
"""Few: the longer it is trained, the more it looks for the defects that we can render, and the less
it sees of others (see the README)."""
WARM_UP = 135
"""Steps until the full rate, which stays."""
AVERAGED = 0.98
"""Of the averaged weights, how much is left of what they were one step ago."""
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.02
LOSSES = {"early": 1.0, "everywhere": 1.0, "local": 1.0, "whole": 0.5, "kind": 0.2, "shown": 1.0}
"""What each of them weighs."""

_CHECKPOINT_EVERY = 25
_ASKED_EARLY = {"denseblock2": 512, "denseblock3": 1024}  # with their channels
_DEFECTIVE_WEIGHT = 3.0
"""Of a defective cell against a sound one: there are many more sound ones."""


class Questions(nn.Module):
    """What is asked of the backbone while it is pretrained; thrown away afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.defective = _asking(CHANNELS, 1)
        self.early = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), _asking(channels, 1))
            for channels in _ASKED_EARLY.values()
        )
        self.kind = _asking(CHANNELS, RENDERED + 1)
        self.shown = _asking(CHANNELS, PIXELS + MEASURES)
        self.ridge = nn.Parameter(torch.tensor(0.0))
        self.scale = nn.Parameter(torch.tensor([2.0, 2.0]))
        self.shift = nn.Parameter(torch.tensor(-1.0))

    def losses(
        self,
        early: Sequence[Tensor],
        maps: Tensor,
        covers: Sequence[Tensor],
        kinds: Tensor,
        targets: Targets,
    ) -> dict[str, Tensor]:
        """What the answers are off by.

        Product by product, P * VIEWS rows: early, the maps after the blocks that are asked early;
        maps (N, 1024, h, w) after norm5; covers (N, h, w) in [0, 1] for each of these maps;
        kinds (N,), -1 for sound views; what the cells show.
        """
        *early_covers, cover = covers
        cells = torch.relu(maps)
        rows, ys, xs = torch.nonzero((cover > 0.3) & (kinds >= 0)[:, None, None], as_tuple=True)
        by_kind = self.kind(cells).permute(0, 2, 3, 1)[rows, ys, xs]
        local, whole = self._by_regression(cells, cover)
        asked_early = [
            _binary(ask(some)[:, 0], wanted)
            for ask, some, wanted in zip(self.early, early, early_covers, strict=True)
        ]
        return {
            "early": torch.stack(asked_early).sum(),
            "everywhere": _binary(self.defective(cells)[:, 0], cover),
            "local": local,
            "whole": whole,
            "kind": F.cross_entropy(by_kind, kinds[rows]) if len(rows) else maps.new_zeros(()),
            "shown": self._by_showing(maps, targets),
        }

    def _by_showing(self, maps: Tensor, targets: Targets) -> Tensor:
        answers = self.shown(torch.relu(maps))
        off_pixels = answers[:, :PIXELS] - targets.pixels
        off_measures = answers[:, PIXELS:] - targets.measures
        off: Tensor = off_pixels.square().mean() + off_measures.square().mean()
        return off

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


def _asking(channels: int, answers: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels, answers, 1)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def _binary(logits: Tensor, wanted: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(
        logits, wanted, pos_weight=torch.tensor(_DEFECTIVE_WEIGHT)
    )


def train_backbone(
    backbone: nn.Sequential,
    checkpoint: Path,
    *,
    seed: int,
    steps: int = STEPS,
    progress: Progress = silent,
) -> None:
    """Train the weights in place, from where the checkpoint is if there is one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        questions = Questions()
    backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    both = nn.ModuleDict({"backbone": backbone, "questions": questions})
    weights = list(both.parameters())
    optimiser = torch.optim.AdamW(
        [
            {"params": [w for w in weights if w.ndim > 1], "weight_decay": WEIGHT_DECAY},
            {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
    )
    averaging = get_ema_multi_avg_fn(AVERAGED)  # type: ignore[no-untyped-call]
    average = AveragedModel(backbone, multi_avg_fn=averaging)
    done = _resume(checkpoint, both, average, optimiser)
    bottles = Bottles(seed, progress)
    both.train()
    with ThreadPoolExecutor(max_workers=1) as drawing:
        coming = drawing.submit(draw_views, seed, done, bottles)
        for step in range(done, steps):
            views = coming.result()
            coming = drawing.submit(draw_views, seed, step + 1, bottles)
            for group in optimiser.param_groups:
                group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARM_UP)
            losses = _ask(backbone, questions, views)
            total = torch.stack([LOSSES[name] * loss for name, loss in losses.items()]).sum()
            optimiser.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(weights, 2.0)
            optimiser.step()
            average.update_parameters(backbone)
            if (step + 1) % _CHECKPOINT_EVERY == 0 or step + 1 == steps:
                _save(checkpoint, both, average, optimiser, step + 1)
            progress("pretraining", step + 1, steps)
    # Single steps jump from one set of defects to another; their average does not.
    with torch.no_grad():
        for weight, averaged in zip(backbone.parameters(), average.parameters(), strict=True):
            weight.copy_(averaged)
    freeze(backbone)


def _ask(backbone: nn.Sequential, questions: Questions, views: Views) -> dict[str, Tensor]:
    maps = to_classifier_input(views.pictures).contiguous(memory_format=torch.channels_last)
    early: list[Tensor] = []
    with torch.autocast("cpu", torch.bfloat16):
        for name, layer in backbone.named_children():
            maps = layer(maps)
            if name in _ASKED_EARLY:
                early.append(maps.float())
    covers = [torch.from_numpy(cover) for cover in views.covers]
    kinds = torch.from_numpy(views.kinds)
    return questions.losses(early, maps.float(), covers, kinds, dense_targets(views.pictures))


def _resume(
    checkpoint: Path, both: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer
) -> int:
    """The number of steps that are done already."""
    if not checkpoint.is_file():
        return 0
    state = torch.load(checkpoint, weights_only=True)
    both.load_state_dict(state["weights"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def _save(
    checkpoint: Path,
    both: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.Optimizer,
    step: int,
) -> None:
    unfinished = checkpoint.with_suffix(".tmp")
    state = {
        "weights": both.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": step,
    }
    torch.save(state, unfinished)
    unfinished.replace(checkpoint)


def pretrain(
    checkpoint: Path, *, seed: int, steps: int = STEPS, progress: Progress = silent
) -> nn.Sequential:
    """The backbone, frozen, its batch norms calibrated on a mix of whole pictures."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = build_backbone()
        set_first_filters(backbone.get_parameter("conv0.weight"))
    train_backbone(backbone, checkpoint, seed=seed, steps=steps, progress=progress)
    calibrate_batch_norms(backbone, render_mix(seed, PICTURES, progress), progress)
    return backbone


def provenance(seed: int) -> str:
    """Where the weights of `pretrain` come from, in words."""
    return (
        f"DenseNet-121, trained from random weights on {STEPS * PRODUCTS * VIEWS} views of "
        f"{STEPS * PRODUCTS} products, all rendered by this project (seed {seed}): parts and "
        "materials of all sorts, a quarter bottles, half of the views with synthetic or rendered "
        "defects, to find the defects and to tell what each place shows. "
        f"Batch norms calibrated on {PICTURES} of its pictures. No photo and no foreign weights."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the bundled backbone.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, required=True, help="to go on from when killed")
    parser.add_argument("--out", type=Path, required=True, help="folder of the file")
    arguments = parser.parse_args()
    backbone = pretrain(arguments.checkpoint, seed=arguments.seed, progress=print_progress)
    path = write_backbone(backbone, arguments.out, provenance=provenance(arguments.seed))
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
