import torch

from worker.inspect.inputs import IMAGENET_STD
from worker.train.filter_bank import first_filters, set_first_filters


def test_bars_and_edges_say_nothing_of_an_even_surface_and_blobs_do():
    filters = first_filters()
    assert filters.shape == (62, 3, 7, 7)
    torch.testing.assert_close(filters.flatten(1).norm(dim=1), torch.ones(62))
    grey = filters.sum(dim=(1, 2, 3)).abs()
    assert grey[:48].max() < 1e-5
    assert grey[48] > 1


def test_no_two_filters_are_alike():
    flat = first_filters().flatten(1)
    alike = flat @ flat.T - torch.eye(len(flat))
    assert alike.max() < 0.99


def test_a_coloured_spot_of_the_same_grey_is_seen_by_its_colour_alone():
    spot = torch.zeros(1, 3, 7, 7)
    spot[0, 0, 2:5, 2:5], spot[0, 1, 2:5, 2:5] = 0.2, -0.2
    fed = spot / torch.tensor(IMAGENET_STD)[:, None, None]
    answers = torch.nn.functional.conv2d(fed, first_filters()).flatten().abs()
    assert answers[:48].max() < 1e-5
    assert answers.max() > 1


def test_they_replace_the_first_layer_and_are_as_strong():
    weights = 0.3 * torch.randn(64, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    before = weights.flatten(1).norm(dim=1).mean()
    set_first_filters(weights)
    torch.testing.assert_close(weights.flatten(1).norm(dim=1), before.expand(64))
    torch.testing.assert_close(weights[:62] / before, first_filters())
