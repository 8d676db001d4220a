import numpy as np
import pytest
import torch

from worker.inspect.backbone import build_backbone
from worker.train import pretraining, pretraining_views
from worker.train.dense_targets import PIXELS, Targets
from worker.train.filter_bank import first_filters
from worker.train.pretraining import (
    Questions,
    pretrain,
    train_backbone,
)
from worker.train.pretraining_views import (
    CELL_SIDES,
    PRODUCTS,
    RENDERED,
    VIEW_SIDE,
    VIEWS,
    Bottles,
    cover_of,
    draw_views,
)


@pytest.fixture(scope="module")
def bottles():
    return Bottles(0, count=8)


@pytest.fixture
def _small(monkeypatch, bottles):
    monkeypatch.setattr(pretraining, "Bottles", lambda *_: bottles)
    monkeypatch.setattr(pretraining_views, "PRODUCTS", 1)
    for module in (pretraining, pretraining_views):
        monkeypatch.setattr(module, "VIEWS", 4)


def test_a_step_is_the_same_whenever_it_is_drawn_and_no_two_are_alike(bottles):
    first, again, other = (draw_views(1, number, bottles) for number in (4, 4, 5))
    assert np.array_equal(first.pictures, again.pictures)
    assert not np.array_equal(first.pictures, other.pictures)


def test_every_other_view_is_damaged_and_the_covers_say_where(bottles):
    for number in range(3):
        views = draw_views(1, number, bottles)
        assert views.pictures.shape == (PRODUCTS * VIEWS, VIEW_SIDE, VIEW_SIDE, 3)
        assert (views.kinds[::2] == -1).all()
        assert ((views.kinds[1::2] >= 0) & (views.kinds[1::2] <= RENDERED)).all()
        for side, cover in zip(CELL_SIDES, views.covers, strict=True):
            assert cover.shape == (PRODUCTS * VIEWS, VIEW_SIDE // side, VIEW_SIDE // side)
            assert cover[::2].max() == 0
            assert (cover[1::2].max(axis=(1, 2)) > 0).all()


def test_bottles_are_a_quarter_of_the_products_and_show_the_renderers_own_defects(bottles):
    kinds = np.concatenate([draw_views(2, number, bottles).kinds for number in range(6)])
    has_rendered = (kinds.reshape(-1, VIEWS) == RENDERED).any(axis=1)
    assert 1 <= has_rendered.sum() <= 12


def test_a_scratch_across_a_cell_covers_it_and_a_dot_does_so_in_part():
    mask = np.zeros((128, 128), bool)
    mask[40, 64:96] = True  # 32 pixels in row 1, column 2
    mask[100:104, 100:102] = True  # 8 pixels in row 3, column 3
    cover = cover_of(mask, 32)
    assert cover[1, 2] == 1
    assert cover[3, 3] == pytest.approx(0.25)
    assert cover.sum() == pytest.approx(1.25)


def answers_off(maps, cover, kinds, targets=None):
    torch.manual_seed(0)
    early = [torch.zeros(len(maps), channels, 8, 8) for channels in (512, 1024)]
    shape = (len(maps), 1, 8, 8)
    targets = targets or Targets(torch.zeros(shape), torch.zeros(shape))
    return Questions().losses(early, maps, [cover, cover, cover], kinds, targets)


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
    of_blind, of_seeing = (answers_off(maps, cover, kinds) for maps in (blind, seeing))
    assert of_seeing["local"] < 0.8 * of_blind["local"]
    assert of_seeing["whole"] < 0.8 * of_blind["whole"]


def test_views_are_never_regressed_on_themselves():
    """Noise that marks each view can be learnt by heart, and tells nothing of the others."""
    torch.manual_seed(0)
    cover = torch.zeros(VIEWS, 8, 8)
    cover[1::2] = (torch.rand(VIEWS // 2, 8, 8) < 0.2).float()
    maps = torch.randn(VIEWS, 1024, 8, 8)
    losses = answers_off(maps, cover, torch.tensor([-1, 0] * (VIEWS // 2)))
    assert losses["whole"] > 0.6


def test_what_cells_show_is_asked_of_each_cell():
    maps = torch.randn(VIEWS, 1024, 8, 8, generator=torch.Generator().manual_seed(0))
    cover, kinds = torch.zeros(VIEWS, 8, 8), torch.full((VIEWS,), -1)
    torch.manual_seed(0)
    shown = Questions().shown(torch.relu(maps)).detach()
    right = Targets(shown[:, :PIXELS], shown[:, PIXELS:])
    elsewhere = Targets(right.pixels.roll(1, dims=3), right.measures.roll(1, dims=3))
    assert answers_off(maps, cover, kinds, right)["shown"] < 1e-6
    assert answers_off(maps, cover, kinds, elsewhere)["shown"] > 0.1


def test_a_product_has_one_tone_curve_and_its_defects_stay_where_they_are(bottles, monkeypatch):
    toned = [draw_views(3, number, bottles) for number in range(3)]
    monkeypatch.setattr(pretraining_views, "TONED_SHARE", 0.0)
    others = 0
    for number, views in enumerate(toned):
        plain = draw_views(3, number, bottles)
        assert np.array_equal(views.covers[0], plain.covers[0])
        for first in range(0, PRODUCTS * VIEWS, VIEWS):
            before, after = (v.pictures[first : first + VIEWS].ravel() for v in (plain, views))
            curve = np.zeros(256, np.uint8)
            curve[before] = after
            assert np.array_equal(curve[before], after)
            others += not np.array_equal(before, after)
    assert 1 <= others < 3 * PRODUCTS


@pytest.mark.usefixtures("_small")
def test_pretraining_begins_with_the_filter_bank(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "PICTURES", 4)
    backbone = pretrain(tmp_path / "p.pt", seed=0, steps=1)
    learnt = torch.nn.functional.normalize(backbone.conv0.weight[:62].flatten(1), dim=1)
    assert (learnt * first_filters().flatten(1)).sum(dim=1).min() > 0.99


@pytest.mark.usefixtures("_small")
def test_all_layers_learn_and_a_killed_training_goes_on_with_the_next_step(tmp_path, monkeypatch):
    torch.manual_seed(1)
    backbone = build_backbone()
    before = {name: weight.clone() for name, weight in backbone.state_dict().items()}
    drawn = []

    def spy(seed, number, stock):
        drawn.append(number)
        return draw_views(seed, number, stock)

    monkeypatch.setattr(pretraining, "draw_views", spy)
    train_backbone(backbone, tmp_path / "p.pt", seed=0, steps=1)
    after = backbone.state_dict()
    for name in ("conv0.weight", "denseblock2.denselayer1.conv2.weight", "norm5.bias"):
        assert not torch.equal(after[name], before[name]), name
    assert not any(weight.requires_grad for weight in backbone.parameters())
    assert not backbone.training

    drawn.clear()
    heard = []
    resumed = build_backbone()
    train_backbone(
        resumed, tmp_path / "p.pt", seed=0, steps=2, progress=lambda _, *of: heard.append(of)
    )
    assert drawn[0] == 1
    assert heard == [(2, 2)]
    assert not torch.equal(resumed.conv0.weight, after["conv0.weight"])


@pytest.mark.usefixtures("_small")
def test_a_finished_pretraining_is_read_back_and_calibrated(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "PICTURES", 4)
    first = pretrain(tmp_path / "new" / "p.pt", seed=0, steps=1)
    again = pretrain(tmp_path / "new" / "p.pt", seed=0, steps=1)
    assert torch.equal(first.conv0.weight, again.conv0.weight)
    torch.testing.assert_close(first.norm0.running_mean, again.norm0.running_mean)
    assert (first.norm5.running_var - 1).abs().max() > 0  # neither initial nor of the training
