"""Training of the classifier head on cached fingerprints, as in the walkthrough.

Adam at 1e-4, cosine decay, class-weighted cross-entropy, dropout 0.4, until it
has converged.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worker.inspect.head import Head
from worker.train.progress import Progress, silent

LEARNING_RATE = 1e-4
DROPOUT = 0.4
HIDDEN = 256
STEPS = 3000
_BATCH = 128


def train_head(
    fingerprints: Tensor, is_defective: Tensor, *, seed: int, progress: Progress = silent
) -> Head:
    """Train on fingerprints (N, COPIES, 1024) with labels (N,); the same seed gives the same head.

    The standardisation of the features is folded into the first layer.
    """
    copies = fingerprints.shape[1]
    flat = fingerprints.flatten(0, 1)  # (N * COPIES, 1024)
    labels = is_defective.long().repeat_interleave(copies)
    mean, std = flat.mean(dim=0), flat.std(dim=0)
    # A channel that never changes on this product says nothing; dividing by its noise would shout.
    std = std.clamp(min=1e-3 * float(std.max()))
    inputs = (flat - mean) / std

    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden = nn.Linear(inputs.shape[1], HIDDEN)
        output = nn.Linear(HIDDEN, 2)
        layers = nn.Sequential(hidden, nn.ReLU(), nn.Dropout(DROPOUT), output).train()
        optimiser = torch.optim.Adam(layers.parameters(), lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
        class_weights = len(labels) / (2 * torch.bincount(labels, minlength=2).float())
        for step in range(1, STEPS + 1):
            rows = torch.randint(len(labels), (_BATCH,), generator=generator)
            loss = F.cross_entropy(layers(inputs[rows]), labels[rows], weight=class_weights)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            if step % 100 == 0:
                progress("head", step, STEPS)

    weight = hidden.weight.detach() / std
    return Head(
        hidden_weight=weight,
        hidden_bias=hidden.bias.detach() - weight @ mean,
        output_weight=output.weight.detach(),
        output_bias=output.bias.detach(),
    )
