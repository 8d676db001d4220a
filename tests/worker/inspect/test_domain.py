import numpy as np
import torch
from sklearn.covariance import LedoitWolf

from worker.inspect.domain import Domain
from worker.train.domain import fit_domain


def test_the_distance_along_each_axis_is_counted_in_its_own_deviations():
    domain = Domain(
        mean=torch.tensor([1.0, 0.0, 0.0]),
        good_mean=torch.zeros(3),
        directions=torch.tensor([[1.0, 0.0, 0.0]]),
        variances=torch.tensor([4.0]),
        floor=torch.tensor(0.25),
    )
    # 6 away along the first axis is 3 deviations; 2 along the others is 4; 3-4-5.
    points = torch.tensor([[7.0, 0.0, 0.0], [1.0, 2.0, 0.0], [7.0, 0.0, 2.0], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(domain.distance(points), torch.tensor([3.0, 4.0, 5.0, 0.0]))


def test_the_stored_form_gives_the_distances_of_scikit_learns_ledoit_wolf():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(30, 1024)) * rng.uniform(0.1, 3, size=(30, 1))
    sample = rng.normal(size=(60, 30)) @ mixing + rng.normal(size=(60, 1024)) * 0.1
    new = rng.normal(size=(5, 30)) @ mixing + rng.normal(size=(5, 1024))

    domain = fit_domain(torch.from_numpy(sample).float(), torch.arange(60) < 20)
    ours = domain.distance(torch.from_numpy(new).float())

    reference = np.sqrt(LedoitWolf().fit(sample).mahalanobis(new))
    np.testing.assert_allclose(ours.numpy(), reference, rtol=1e-3)
    np.testing.assert_allclose(domain.good_mean, sample[20:].mean(axis=0), atol=1e-4)
