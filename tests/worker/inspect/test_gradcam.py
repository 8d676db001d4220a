import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM, HiResCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from worker.inspect.backbone import load_backbone
from worker.inspect.good_features import GoodFeatures, pool_deviations
from worker.inspect.gradcam import GoodEvidence, evidence
from worker.inspect.gradcam import gradcam as beyond_good
from worker.inspect.head import Head
from worker.inspect.inputs import to_classifier_input


def gradcam(deviations: torch.Tensor, head: Head) -> torch.Tensor:
    """As it was published: held against nothing."""
    found = evidence(deviations, head.pool(deviations), head)
    return beyond_good(found, GoodEvidence(torch.zeros(8, 8)))


class Deviations(nn.Module):
    """`GoodFeatures` as a layer, whose output the library can watch."""

    def __init__(self, good: GoodFeatures) -> None:
        super().__init__()
        self.good = good

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        cells = ((maps - self.good.mean) / self.good.std).flatten(2)
        return (self.good.whitening @ cells).unflatten(2, maps.shape[2:]).abs()


class Pooling(nn.Module):
    def __init__(self, exponent: float) -> None:
        super().__init__()
        self.exponent = exponent

    def forward(self, deviations: torch.Tensor) -> torch.Tensor:
        return deviations.pow(self.exponent).mean(dim=(2, 3)).pow(1 / self.exponent)


class WholeNetwork(nn.Module):
    """The same network as one differentiable module, as the library needs it."""

    def __init__(self, features: nn.Module, good: GoodFeatures, head: Head) -> None:
        super().__init__()
        self.features = features
        self.deviations = Deviations(good)
        hidden, output = nn.Linear(1024, 256), nn.Linear(256, 2)
        hidden.weight.data, hidden.bias.data = head.hidden_weight, head.hidden_bias
        output.weight.data, output.bias.data = head.output_weight, head.output_bias
        self.classifier = nn.Sequential(
            Pooling(float(head.exponent)),
            hidden,
            nn.ReLU(),
            nn.Dropout(0.4),
            output,
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.deviations(self.features(images)))


def a_head_that_fires(deviations: torch.Tensor, exponent: float = 1.0) -> Head:
    """Random layers whose defect logit rises with some channels and falls with others."""
    pooled = pool_deviations(deviations, exponent)
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(256, 1024, generator=generator)
    spread = (pooled @ hidden.T).std(dim=0).clamp(min=1e-3)
    hidden = hidden / spread[:, None]
    return Head(
        hidden_weight=hidden,
        hidden_bias=-(pooled @ hidden.T).mean(dim=0),
        output_weight=torch.randn(2, 256, generator=generator),
        output_bias=torch.zeros(2),
        exponent=torch.tensor(exponent),
    )


@pytest.mark.parametrize(("exponent", "method"), [(1.0, GradCAM), (8.0, HiResCAM)])
def test_the_closed_form_agrees_with_the_grad_cam_library_on_ten_images(
    photos, backbone_file, exponent, method
):
    inputs = to_classifier_input(np.stack([photo.pixels for photo in photos]))
    backbone = load_backbone(backbone_file)
    with torch.no_grad():
        maps = backbone(inputs)
    mixing = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(3)) / 64
    good = GoodFeatures(
        maps[:5].mean(dim=0),
        maps[:5].std(dim=0) + 0.1 * float(maps.std()),
        torch.eye(1024) + mixing + mixing.T,
    )
    deviations = good.deviations(maps)
    head = a_head_that_fires(deviations, exponent)
    ours = gradcam(deviations, head).numpy()

    network = WholeNetwork(backbone, good, head).eval().requires_grad_(True)
    with method(model=network, target_layers=[network.deviations]) as library:
        theirs = library(inputs, targets=[ClassifierOutputTarget(1)] * len(photos))

    assert len(theirs) == 10
    for mine, reference in zip(ours, theirs, strict=True):
        assert reference.std() > 0.05  # a map that says something
        # The library enlarges to the image with OpenCV and scales to [0, 1].
        enlarged = resized(mine, reference.shape)
        assert np.corrcoef(enlarged.ravel(), reference.ravel())[0, 1] >= 0.999


def resized(cells: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    import cv2

    return cv2.resize(cells, (shape[1], shape[0]))


def random_deviations(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 1024, 8, 8, generator=torch.Generator().manual_seed(seed)).abs()


def test_its_values_are_those_of_the_gradient_that_autograd_finds():
    deviations = random_deviations(3, 5)
    head = a_head_that_fires(deviations)
    leaf = deviations.clone().requires_grad_()
    head.logits(leaf.mean(dim=(2, 3)))[:, 1].sum().backward()
    channel_weights = leaf.grad.mean(dim=(2, 3), keepdim=True)
    expected = torch.relu((channel_weights * deviations).sum(dim=1))

    torch.testing.assert_close(gradcam(deviations, head), expected, rtol=1e-4, atol=1e-6)


def test_each_image_of_a_batch_gets_the_map_it_would_get_alone():
    deviations = random_deviations(4, 6)
    head = a_head_that_fires(deviations)
    together = gradcam(deviations, head)
    for index in range(4):
        alone = gradcam(deviations[index : index + 1], head)[0]
        torch.testing.assert_close(alone, together[index], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("exponent", [1.0, 8.0])
def test_the_evidence_of_all_cells_adds_up_to_what_the_channels_say(exponent):
    """Where every unit of the head fires, that is the whole logit but for the biases."""
    deviations = random_deviations(2, 7)
    generator = torch.Generator().manual_seed(8)
    hidden, output = torch.rand(256, 1024, generator=generator), torch.randn(2, 256)
    head = Head(hidden, torch.zeros(256), output, torch.zeros(2), torch.tensor(exponent))
    pooled = head.pool(deviations)
    torch.testing.assert_close(
        evidence(deviations, pooled, head).sum(dim=(1, 2)),
        head.logits(pooled)[:, 1],
        rtol=1e-4,
        atol=1e-2,
    )


@pytest.mark.parametrize("channel_speaks_for_a_defect", [True, False])
def test_only_what_speaks_for_a_defect_is_hot(channel_speaks_for_a_defect):
    deviations = torch.zeros(1, 1024, 8, 8)
    deviations[0, 7, 2, 5] = 64.0  # 1 over all cells
    hidden = torch.zeros(256, 1024)
    hidden[0, 7] = 1.0
    output = torch.zeros(2, 256)
    output[1, 0] = 1.0 if channel_speaks_for_a_defect else -1.0
    head = Head(hidden, torch.zeros(256), output, torch.zeros(2), torch.tensor(1.0))

    heat = gradcam(deviations, head)[0]

    expected = torch.zeros(8, 8)
    expected[2, 5] = float(channel_speaks_for_a_defect)
    torch.testing.assert_close(heat, expected)


def test_what_good_parts_have_too_is_taken_away_cell_by_cell():
    good = torch.zeros(8, 8)
    good[0, 0] = 5.0  # a corner that always speaks
    good[4, 4] = -1.0
    evidences = good.repeat(2, 1, 1)
    evidences[1, 2, 3] = 0.5
    heat = beyond_good(evidences, GoodEvidence(good))
    assert not heat[0].any()
    assert (heat[1] > 0).nonzero().tolist() == [[2, 3]]
