"""DenseNet-121 as an OpenVINO graph, built straight from the backbone's weights.

The same layers as torchvision's `features` (Huang et al. 2017), so the file of weights is the
only thing that the two have to share. Building takes half a second where tracing the network and
converting the trace takes many: a worker has to be ready soon.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from worker.inspect.engines.openvino_import import ops, ov
from worker.inspect.preprocess import IMAGENET_MEAN, IMAGENET_STD, SIDE

_BLOCKS = (6, 12, 24, 16)
"""Layers of the four dense blocks."""
_EPSILON = 1e-5
"""Of torchvision's batch norms."""

Weights = Mapping[str, NDArray[np.float32]]


def densenet_graph(weights: Weights) -> ov.Model:
    """One photo (1, 256, 256, 3) RGB, uint8, in; its maps after norm5 (1, 1024, 8, 8) out.

    weights: of torchvision's `densenet121().features`, by name.
    """
    photo = ops.parameter([1, SIDE, SIDE, 3], np.uint8, "photo")
    nodes = ops.transpose(ops.convert(photo, np.float32), np.array([0, 3, 1, 2]))
    mean, std = (np.array(v, np.float32) * 255 for v in (IMAGENET_MEAN, IMAGENET_STD))
    nodes = _affine(nodes, np.reciprocal(std), -mean / std)
    nodes = _convolve(nodes, weights["conv0.weight"], stride=2)
    nodes = ops.relu(_norm(nodes, weights, "norm0"))
    nodes = ops.max_pool(
        nodes, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3], "floor", "explicit", "i64", 0
    ).output(0)
    for number, layers in enumerate(_BLOCKS, start=1):
        for layer in range(1, layers + 1):
            name = f"denseblock{number}.denselayer{layer}"
            new = ops.relu(_norm(nodes, weights, f"{name}.norm1"))
            new = _convolve(new, weights[f"{name}.conv1.weight"])
            new = ops.relu(_norm(new, weights, f"{name}.norm2"))
            new = _convolve(new, weights[f"{name}.conv2.weight"])
            nodes = ops.concat([nodes, new], 1)
        if number < len(_BLOCKS):
            nodes = ops.relu(_norm(nodes, weights, f"transition{number}.norm"))
            nodes = _convolve(nodes, weights[f"transition{number}.conv.weight"])
            nodes = ops.avg_pool(nodes, [2, 2], [0, 0], [0, 0], [2, 2], False)
    return ov.Model([_norm(nodes, weights, "norm5")], [photo], "densenet121")


def _convolve(nodes: ov.Node, weight: NDArray[np.float32], *, stride: int = 1) -> ov.Node:
    half = weight.shape[2] // 2
    return ops.convolution(nodes, weight, [stride] * 2, [half] * 2, [half] * 2, [1, 1])


def _norm(nodes: ov.Node, weights: Weights, name: str) -> ov.Node:
    """A batch norm in evaluation: one factor and one summand for each channel."""
    scale = weights[f"{name}.weight"] / np.sqrt(weights[f"{name}.running_var"] + _EPSILON)
    return _affine(nodes, scale, weights[f"{name}.bias"] - weights[f"{name}.running_mean"] * scale)


def _affine(nodes: ov.Node, scale: NDArray[np.float32], shift: NDArray[np.float32]) -> ov.Node:
    scale, shift = (values.astype(np.float32).reshape(1, -1, 1, 1) for values in (scale, shift))
    return ops.add(ops.multiply(nodes, scale), shift)
