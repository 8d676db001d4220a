"""DenseNet-121 as an OpenVINO graph, built straight from the backbone's weights.

The same layers as torchvision's `features` (Huang et al. 2017), so the file of weights is the
only thing that the two have to share. Building takes half a second where tracing the network and
converting the trace takes many: a worker has to be ready soon.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from worker.inspect.engines.openvino_import import ops, ov
from worker.inspect.inputs import IMAGENET_MEAN, IMAGENET_STD
from worker.inspect.preprocess import SIDE

_BLOCKS = (6, 12, 24, 16)
"""Layers of the four dense blocks."""
_EPSILON = 1e-5
"""Of torchvision's batch norms."""

Weights = Mapping[str, NDArray[np.float32]]


def densenet_graph(weights: Weights, *, in_bf16: bool = False) -> ov.Model:
    """One photo (1, 256, 256, 3) RGB, uint8, in; its maps after norm5 (1, 1024, 8, 8) out.

    weights: of torchvision's `densenet121().features`, by name. `in_bf16`: as it loses least where
    it is computed in bf16; otherwise it costs a little more than it has to.
    """
    photo = ops.parameter([1, SIDE, SIDE, 3], np.uint8, "photo")
    nodes = ops.transpose(ops.convert(photo, np.float32), np.array([0, 3, 1, 2]))
    nodes = ops.relu(_first_convolution(nodes, weights, in_bf16=in_bf16))
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


def _first_convolution(photo: ov.Node, weights: Weights, *, in_bf16: bool) -> ov.Node:
    """Normalisation, conv0 and norm0 as one: their factors go into the weights.

    Most of what bf16 costs, it would cost here: the normalised photo rounded to eight bits, then
    the weights. So there the photo stays whole numbers, which bf16 holds exactly, and the weights
    come in two parts: rounded to bf16, and what rounding left. What lies around the photo is the
    mean, and in bf16 the whole number next to it.
    """
    mean, std = (np.array(v, np.float64) * 255 for v in (IMAGENET_MEAN, IMAGENET_STD))
    middle = np.rint(mean) if in_bf16 else mean
    scale, summand = _scale_and_summand(weights, "norm0")
    exact = weights["conv0.weight"] * scale.reshape(-1, 1, 1, 1) / std.reshape(1, -1, 1, 1)
    of_middle = (exact * (middle - mean).reshape(1, -1, 1, 1)).sum(axis=(1, 2, 3))
    kernel = exact.astype(np.float32)
    centred = ops.subtract(photo, middle.astype(np.float32).reshape(1, -1, 1, 1))
    if in_bf16:
        rounded = _to_bf16(kernel)
        kernel = np.concatenate([rounded, kernel - rounded], axis=1)
        centred = ops.concat([centred, centred], 1)
    nodes = _convolve(centred, kernel, stride=2)
    return ops.add(nodes, (summand + of_middle).astype(np.float32).reshape(1, -1, 1, 1))


def _to_bf16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The nearest numbers that bf16 can hold, of two equally near ones the even one."""
    bits = values.view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


def _convolve(nodes: ov.Node, weight: NDArray[np.float32], *, stride: int = 1) -> ov.Node:
    half = weight.shape[2] // 2
    return ops.convolution(nodes, weight, [stride] * 2, [half] * 2, [half] * 2, [1, 1])


def _norm(nodes: ov.Node, weights: Weights, name: str) -> ov.Node:
    """A batch norm in evaluation: one factor and one summand for each channel."""
    scale, summand = (values.reshape(1, -1, 1, 1) for values in _scale_and_summand(weights, name))
    return ops.add(ops.multiply(nodes, scale), summand)


def _scale_and_summand(
    weights: Weights, name: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    scale = weights[f"{name}.weight"] / np.sqrt(weights[f"{name}.running_var"] + _EPSILON)
    return scale, weights[f"{name}.bias"] - weights[f"{name}.running_mean"] * scale
