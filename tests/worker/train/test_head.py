import pytest
import torch
from torch.nn import functional as F

from worker.inspect.good_features import GoodFeatures
from worker.inspect.head import Head
from worker.train import head as training
from worker.train.features import CachedFeatures, Shown, hold_against
from worker.train.head import ENOUGH_DEFECTS, Sample, sample_of, train_head


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(training, "STEPS", 400)


def two_classes(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Defects differ from good in channel 5 alone, which is small beside the others."""
    generator = torch.Generator().manual_seed(0)
    pooled = torch.randn(count, 1024, generator=generator) * 10 + 50
    is_defective = torch.arange(count) % 4 == 0
    pooled[:, 5] = is_defective.float() * 0.2 + 0.02 * torch.randn(count, generator=generator)
    return pooled, is_defective


def sample(pooled: torch.Tensor, is_defective: torch.Tensor) -> Sample:
    weights = torch.where(is_defective, 0.5 / is_defective.sum(), 0.5 / (~is_defective).sum())
    return Sample(pooled, is_defective, weights)


def features_of(good: int, defective: int) -> CachedFeatures:
    """Photo n has the feature n in every copy; its synthetic defects have 100 + n."""
    count = good + defective
    numbers = torch.arange(float(count))[:, None, None, None, None].half()
    is_defective = torch.arange(count) >= good
    return CachedFeatures(
        numbers.expand(-1, 8, 1024, 1, 1), (100 + numbers).expand(-1, 3, 1024, 1, 1), is_defective
    )


def chosen_of(features: CachedFeatures, rows: torch.Tensor, *, copies: int) -> Sample:
    """Held against good parts that are 0 everywhere."""
    nothing = GoodFeatures(torch.zeros(1024, 1, 1), torch.ones(1024, 1, 1), torch.eye(1024))
    return sample_of(hold_against(features, rows, nothing, shown=Shown(copies, 1.0)))


def test_a_sample_has_copies_of_each_photo_and_synthetic_defects_of_good_ones_only():
    chosen = chosen_of(features_of(4, 2), torch.tensor([0, 2, 3, 5]), copies=2)
    assert chosen.pooled[:, 0].tolist() == [
        *(0, 0, 2, 2, 3, 3, 5, 5),
        *(100, 100, 100, 102, 102, 102, 103, 103, 103),
    ]
    assert chosen.is_defective.tolist() == [False] * 6 + [True] * 11


def test_good_and_defective_weigh_the_same_and_synthetic_ones_as_much_as_real_ones_are_missing():
    few = ENOUGH_DEFECTS // 5
    chosen = chosen_of(features_of(20, few), torch.arange(20 + few), copies=1)
    real = (chosen.pooled[:, 0] >= 20) & (chosen.pooled[:, 0] < 100)
    synthetic = chosen.pooled[:, 0] >= 100
    torch.testing.assert_close(chosen.weights[~chosen.is_defective].sum(), torch.tensor(0.5))
    torch.testing.assert_close(chosen.weights[real].sum(), torch.tensor(0.1))
    torch.testing.assert_close(chosen.weights[synthetic].sum(), torch.tensor(0.4))


def test_photos_shown_only_as_they_are_come_with_damaged_ones_that_lie_as_they_do():
    chosen = chosen_of(features_of(4, 0), torch.arange(4), copies=1)
    assert len(chosen.pooled) == 4 + 4


def test_with_enough_real_defects_there_are_no_synthetic_ones():
    chosen = chosen_of(features_of(5, ENOUGH_DEFECTS), torch.arange(5 + ENOUGH_DEFECTS), copies=1)
    assert len(chosen.pooled) == 5 + ENOUGH_DEFECTS
    torch.testing.assert_close(chosen.weights[chosen.is_defective].sum(), torch.tensor(0.5))


def test_without_real_defects_the_synthetic_ones_are_the_class():
    chosen = chosen_of(features_of(5, 0), torch.arange(5), copies=8)
    torch.testing.assert_close(chosen.weights[chosen.is_defective].sum(), torch.tensor(0.5))
    assert torch.isfinite(chosen.weights).all()


def test_a_small_channel_that_tells_the_classes_apart_is_found(monkeypatch):
    monkeypatch.setattr(training, "STEPS", 1500)
    pooled, is_defective = two_classes(400)
    # Only this channel and 15 loud ones vary.
    pooled[:, 16:] = 1.0
    head = train_head(sample(pooled[:300], is_defective[:300]), exponent=1.0, seed=0)
    logits = head.logits(pooled[300:])
    is_right = (logits[:, 1] > logits[:, 0]) == is_defective[300:]
    assert is_right.float().mean() > 0.95


def test_the_same_seed_gives_the_same_head_and_another_seed_another():
    pooled, is_defective = two_classes(40)
    first, again, other = (
        train_head(sample(pooled, is_defective), exponent=1.0, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(first.hidden_weight, again.hidden_weight)
    assert not torch.equal(first.hidden_weight, other.hidden_weight)


def test_training_leaves_the_global_random_state_alone():
    pooled, is_defective = two_classes(40)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_head(sample(pooled, is_defective), exponent=1.0, seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_the_standardisation_is_folded_into_the_first_layer(monkeypatch):
    """Before the first step the head is its initial layers on standardised inputs."""
    monkeypatch.setattr(training, "STEPS", 0)
    monkeypatch.setattr(
        torch.optim.lr_scheduler, "CosineAnnealingLR", lambda *_: None
    )  # it divides by the number of steps
    pooled, is_defective = two_classes(40)
    head = train_head(sample(pooled, is_defective), exponent=1.0, seed=9)

    torch.manual_seed(9)
    hidden, output = torch.nn.Linear(1024, 256), torch.nn.Linear(256, 2)
    std = pooled.std(dim=0)
    standardised = (pooled - pooled.mean(dim=0)) / std.clamp(min=1e-3 * float(std.max()))
    with torch.no_grad():
        expected = output(F.relu(hidden(standardised)))
    assert isinstance(head, Head)
    torch.testing.assert_close(head.logits(pooled), expected, rtol=1e-3, atol=1e-3)
