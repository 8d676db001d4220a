import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from worker.inspect.backbone import load_backbone, pool
from worker.inspect.gradcam import GoodEvidence, evidence
from worker.inspect.gradcam import gradcam as beyond_good
from worker.inspect.head import Head
from worker.inspect.preprocess import to_classifier_input


def gradcam(maps: torch.Tensor, fingerprints: torch.Tensor, head: Head) -> torch.Tensor:
    """As it was published: held against nothing."""
    return beyond_good(evidence(maps, fingerprints, head), GoodEvidence(torch.zeros(8, 8)))


class WholeNetwork(nn.Module):
    """The same network as one differentiable module, as the library needs it."""

    def __init__(self, features: nn.Module, head: Head) -> None:
        super().__init__()
        self.features = features
        hidden, output = nn.Linear(1024, 256), nn.Linear(256, 2)
        hidden.weight.data, hidden.bias.data = head.hidden_weight, head.hidden_bias
        output.weight.data, output.bias.data = head.output_weight, head.output_bias
        self.classifier = nn.Sequential(
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            hidden,
            nn.ReLU(),
            nn.Dropout(0.4),
            output,
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images))


def a_head_that_fires(fingerprints: torch.Tensor) -> Head:
    """Random layers whose defect logit rises with some channels and falls with others."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(256, 1024, generator=generator)
    spread = (fingerprints @ hidden.T).std(dim=0).clamp(min=1e-3)
    hidden = hidden / spread[:, None]
    return Head(
        hidden_weight=hidden,
        hidden_bias=-(fingerprints @ hidden.T).mean(dim=0),
        output_weight=torch.randn(2, 256, generator=generator),
        output_bias=torch.zeros(2),
    )


def test_the_closed_form_agrees_with_the_grad_cam_library_on_ten_images(photos, backbone_file):
    inputs = to_classifier_input(np.stack([photo.pixels for photo in photos]))
    backbone = load_backbone(backbone_file)
    with torch.no_grad():
        maps = backbone(inputs)
    head = a_head_that_fires(pool(maps))
    ours = gradcam(maps, pool(maps), head).numpy()

    network = WholeNetwork(backbone, head).eval().requires_grad_(True)
    with GradCAM(model=network, target_layers=[backbone.norm5]) as library:
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


def test_its_values_are_those_of_the_gradient_that_autograd_finds():
    generator = torch.Generator().manual_seed(5)
    maps = torch.randn(3, 1024, 8, 8, generator=generator)
    head = a_head_that_fires(pool(maps))
    leaf = maps.clone().requires_grad_()
    head.logits(torch.relu(leaf).mean(dim=(2, 3)))[:, 1].sum().backward()
    channel_weights = leaf.grad.mean(dim=(2, 3), keepdim=True)
    expected = torch.relu((channel_weights * maps).sum(dim=1))

    torch.testing.assert_close(gradcam(maps, pool(maps), head), expected, rtol=1e-4, atol=1e-6)


def test_each_image_of_a_batch_gets_the_map_it_would_get_alone():
    generator = torch.Generator().manual_seed(6)
    maps = torch.randn(4, 1024, 8, 8, generator=generator)
    head = a_head_that_fires(pool(maps))
    together = gradcam(maps, pool(maps), head)
    for index in range(4):
        one = maps[index : index + 1]
        torch.testing.assert_close(
            gradcam(one, pool(one), head)[0], together[index], rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("channel_speaks_for_a_defect", [True, False])
def test_only_what_speaks_for_a_defect_is_hot(channel_speaks_for_a_defect):
    maps = torch.full((1, 1024, 8, 8), -1.0)
    maps[0, 7, 2, 5] = 64.0  # fingerprint of channel 7 is 1
    sign = 1.0 if channel_speaks_for_a_defect else -1.0
    hidden = torch.zeros(256, 1024)
    hidden[0, 7] = 1.0
    output = torch.zeros(2, 256)
    output[1, 0] = sign
    head = Head(hidden, torch.zeros(256), output, torch.zeros(2))

    heat = gradcam(maps, pool(maps), head)[0]

    # Weight of channel 7: 1 (head) x 1/64 (share of positive cells) / 64 (mean over cells).
    expected = torch.zeros(8, 8)
    if channel_speaks_for_a_defect:
        expected[2, 5] = 64.0 / 64 / 64
    else:
        expected += 1.0 / 64 / 64  # elsewhere the channel is -1, and -1 x -weight is positive
        expected[2, 5] = 0.0
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
