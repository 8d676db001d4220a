import numpy as np
import pytest
import torch

from shared.errors import InvalidInput
from worker.inspect.backbone import build_backbone
from worker.train import pretraining
from worker.train.pretraining import (
    Questions,
    compute_early_maps,
    split_backbone,
    train_late_layers,
)
from worker.train.pretraining_views import RENDERED, VIEWS, Bottles, cover_of, draw_product


@pytest.fixture(scope="module")
def bottles():
    return Bottles(0, count=8)


@pytest.fixture(autouse=True)
def _small(monkeypatch, bottles):
    monkeypatch.setattr(pretraining, "Bottles", lambda *_: bottles)
    monkeypatch.setattr(pretraining, "PER_STEP", 1)


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return build_backbone().eval()


def test_a_product_is_the_same_whenever_it_is_drawn_and_no_two_are_alike(bottles):
    first, again, other = (draw_product(1, number, bottles) for number in (4, 4, 5))
    assert np.array_equal(first.pictures, again.pictures)
    assert not np.array_equal(first.pictures, other.pictures)


def test_every_other_view_is_damaged_and_the_cover_says_where(bottles):
    for number in range(6):
        views = draw_product(1, number, bottles)
        assert views.pictures.shape == (VIEWS, 256, 256, 3)
        assert (views.kinds[::2] == -1).all()
        assert views.cover[::2].max() == 0
        assert ((views.kinds[1::2] >= 0) & (views.kinds[1::2] <= RENDERED)).all()
        assert (views.cover[1::2].max(axis=(1, 2)) > 0).all()


def test_bottles_are_a_quarter_of_the_products_and_show_the_renderers_own_defects(bottles):
    kinds = np.stack([draw_product(2, number, bottles).kinds for number in range(24)])
    has_rendered = (kinds == RENDERED).any(axis=1)
    assert 1 <= has_rendered.sum() <= 12
    assert (kinds[has_rendered] == RENDERED).sum(axis=1).max() < VIEWS // 2


def test_a_scratch_across_a_cell_covers_it_and_a_dot_does_so_in_part():
    mask = np.zeros((256, 256), bool)
    mask[40, 64:96] = True  # 32 pixels in row 1, column 2
    mask[200:204, 200:202] = True  # 8 pixels in row 6, column 6
    cover = cover_of(mask)
    assert cover[1, 2] == 1
    assert cover[6, 6] == pytest.approx(0.25)
    assert cover.sum() == pytest.approx(1.25)


def test_maps_that_show_the_defects_answer_better_than_maps_that_do_not():
    torch.manual_seed(0)
    cover = torch.zeros(2 * VIEWS, 8, 8)
    cover[1::2, 3, torch.arange(VIEWS) % 8] = 1.0
    kinds = torch.tensor([-1, 2] * VIEWS)
    blind = torch.randn(2 * VIEWS, 1024, 8, 8) * 0.1
    # Channel 7 for the one product and channel 9 for the other: no one layer for both.
    seeing = blind.clone()
    seeing[:VIEWS, 7] += 5 * cover[:VIEWS]
    seeing[VIEWS:, 9] += 5 * cover[VIEWS:]
    questions = Questions()
    of_blind, of_seeing = (questions.losses(maps, cover, kinds) for maps in (blind, seeing))
    assert of_seeing["local"] < 0.8 * of_blind["local"]
    assert of_seeing["whole"] < 0.8 * of_blind["whole"]


def test_views_are_never_regressed_on_themselves():
    """Noise that marks each view can be learnt by heart, and tells nothing of the others."""
    torch.manual_seed(0)
    cover = torch.zeros(VIEWS, 8, 8)
    cover[1::2] = (torch.rand(VIEWS // 2, 8, 8) < 0.2).float()
    maps = torch.randn(VIEWS, 1024, 8, 8)
    losses = Questions().losses(maps, cover, torch.tensor([-1, 0] * (VIEWS // 2)))
    assert losses["whole"] > 0.6


def test_the_two_halves_share_the_weights_of_the_whole(backbone):
    early, late = split_backbone(backbone)
    photo = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(late(early(photo)), backbone(photo))
    assert late[0] is backbone.transition3


def test_a_killed_pretraining_goes_on_with_the_next_product(backbone, tmp_path, monkeypatch):
    early, _ = split_backbone(backbone)
    whole = compute_early_maps(early, tmp_path / "a", seed=0, products=3)

    def killed(step, done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute_early_maps(early, tmp_path / "b", seed=0, products=3, progress=killed)
    drawn = []

    def spy(seed, number, stock):
        drawn.append(number)
        return draw_product(seed, number, stock)

    monkeypatch.setattr(pretraining, "draw_product", spy)
    resumed = compute_early_maps(early, tmp_path / "b", seed=0, products=3)
    assert drawn[0] == 2
    assert np.array_equal(resumed.maps, whole.maps)
    assert np.array_equal(resumed.cover, whole.cover)
    assert np.array_equal(resumed.kinds, whole.kinds)


def test_a_folder_of_another_size_of_pretraining_is_refused(backbone, tmp_path):
    early, _ = split_backbone(backbone)
    compute_early_maps(early, tmp_path, seed=0, products=1)
    with pytest.raises(InvalidInput, match="empty folder"):
        compute_early_maps(early, tmp_path, seed=0, products=2)


def test_the_late_layers_learn_the_early_ones_stay_and_a_killed_training_goes_on(tmp_path):
    torch.manual_seed(1)
    backbone = build_backbone().eval().requires_grad_(False)
    early, late = split_backbone(backbone)
    maps = compute_early_maps(early, tmp_path, seed=0, products=2)
    before = {name: weight.clone() for name, weight in backbone.state_dict().items()}
    heard = []

    def tell(step, done, total):
        heard.append((done, total))

    train_late_layers(late, maps, tmp_path / "late.pt", seed=0, epochs=1, progress=tell)
    assert heard == [(1, 2), (2, 2)]
    after = backbone.state_dict()
    assert torch.equal(after["denseblock3.denselayer1.conv1.weight"],
                       before["denseblock3.denselayer1.conv1.weight"])  # fmt: skip
    assert torch.equal(after["norm0.running_mean"], before["norm0.running_mean"])
    for name in ("transition3.conv.weight", "denseblock4.denselayer16.conv2.weight", "norm5.bias"):
        assert not torch.equal(after[name], before[name]), name
    assert not any(weight.requires_grad for weight in late.parameters())
    assert not late.training

    heard.clear()
    train_late_layers(late, maps, tmp_path / "late.pt", seed=0, epochs=2, progress=tell)
    assert heard == [(3, 4), (4, 4)]
