"""The networks on an NVIDIA GPU: captured graphs, so that launching kernels costs next to nothing.

Two batches can be in flight: one is copied while the other is computed.
"""

import queue
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worker.inspect.autoencoder import second_opinion
from worker.inspect.backbone import CELLS, CHANNELS, load_backbone
from worker.inspect.bundle import Parts, ProductModel
from worker.inspect.engines.protocol import Anomalies
from worker.inspect.inputs import to_classifier_input
from worker.inspect.preprocess import SIDE

FP32 = "cuda-fp32"
BF16 = "cuda-bf16"

_PRECISION = {FP32: torch.float32, BF16: torch.bfloat16}
_SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Batches that graphs are captured for; others are filled up to the next."""
_LANES = 2
_MOST_PARTS = 64


class CudaEngine:
    """Backbone in bf16 or fp32, autoencoders in fp32, on one GPU.

    On `device` cpu the same code runs without streams and graphs; that is for tests.
    """

    def __init__(
        self, name: str, backbone_file: Path, *, sha256: str, device: str = "cuda"
    ) -> None:
        self.name = name
        self.backbone_sha256 = sha256
        self.device = torch.device(device)
        self.batch_size = _SIZES[-1]
        if self.device.type == "cuda":
            # It would be no fp32: it keeps ten bits of each factor.
            torch.backends.cudnn.allow_tf32 = False
        backbone = load_backbone(backbone_file, sha256=sha256).to(self.device)
        for layer in backbone.modules():
            # Batch norms stay fp32: some of their variances are below what bf16 can hold.
            if isinstance(layer, nn.Conv2d):
                weight = layer.weight.to(_PRECISION[name], memory_format=torch.channels_last)
                layer.weight = nn.Parameter(weight, requires_grad=False)
        self._lanes: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
        for _ in range(_LANES):
            self._lanes.put(_Lane(backbone, _PRECISION[name], self.device))
        self._parts: OrderedDict[str, Parts] = OrderedDict()

    @torch.inference_mode()
    def features(self, photos: NDArray[np.uint8]) -> Tensor:
        maps = torch.empty((len(photos), CHANNELS, CELLS, CELLS), device=self.device)
        lane = self._lanes.get()
        try:
            for first in range(0, len(photos), _SIZES[-1]):
                part = slice(first, first + _SIZES[-1])
                lane.run(photos[part], maps[part])
        finally:
            self._lanes.put(lane)
        return maps

    @torch.inference_mode()
    def anomalies(self, photos: NDArray[np.uint8], model: ProductModel) -> Anomalies:
        parts = self.parts_of(model)
        pixels = torch.as_tensor(photos).to(self.device)
        return Anomalies(*second_opinion(pixels, parts.autoencoder, parts.good_residuals))

    def parts_of(self, model: ProductModel) -> Parts:
        """The model's parts on this device."""
        # Two threads may copy the same parts; the copies are alike.
        parts = self._parts.get(model.digest) or model.parts.to(self.device)
        self._parts[model.digest] = parts
        while len(self._parts) > _MOST_PARTS:
            self._parts.popitem(last=False)
        return parts


class _Lane:
    """Stream, buffers and captured graphs of one batch in flight."""

    def __init__(self, backbone: nn.Module, precision: torch.dtype, device: torch.device) -> None:
        self._backbone = backbone
        self._precision = precision
        is_cuda = device.type == "cuda"
        shape = (_SIZES[-1], SIDE, SIDE, 3)
        # Only from pinned memory can the GPU copy while it computes.
        self._host = torch.zeros(shape, dtype=torch.uint8, pin_memory=is_cuda)
        self._input = torch.zeros(shape, dtype=torch.uint8, device=device)
        self._stream = torch.cuda.Stream(device) if is_cuda else None  # type: ignore[no-untyped-call]
        self._graphs = self._capture(self._stream) if self._stream is not None else {}

    def run(self, photos: NDArray[np.uint8], maps: Tensor) -> None:
        """Write the maps (B, 1024, 8, 8), fp32, of at most 64 photos, and return when they are
        there.

        They are the caller's memory, from the caller's stream: ours could be handed to the next
        batch while the caller's kernels still read it.
        """
        count = len(photos)
        size = next(size for size in _SIZES if size >= count)
        self._host[:count].copy_(torch.as_tensor(photos))
        if self._stream is None:
            self._input[:count].copy_(self._host[:count])
            maps.copy_(self._forward(size)[:count])
            return
        # What the caller's stream did with that memory before comes first.
        self._stream.wait_stream(torch.cuda.current_stream(maps.device))
        with torch.cuda.stream(self._stream):
            self._input[:count].copy_(self._host[:count], non_blocking=True)
            graph, found = self._graphs[size]
            graph.replay()
            maps.copy_(found[:count])
        self._stream.synchronize()

    @torch.inference_mode()
    def _capture(self, stream: torch.cuda.Stream) -> dict[int, tuple[torch.cuda.CUDAGraph, Tensor]]:
        """A graph for each size, the largest first: the others fit into its memory, and one lane
        runs one of them at a time. All at the start: a process can capture one graph at a time.
        """
        graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        pool = torch.cuda.graph_pool_handle()
        for size in reversed(_SIZES):
            with torch.cuda.stream(stream):
                for _ in range(3):  # the libraries choose their algorithms outside of the capture
                    self._forward(size)
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            # Others may use the GPU meanwhile: only this thread is watched for what cannot be
            # captured.
            with torch.cuda.graph(
                graph, pool=pool, stream=stream, capture_error_mode="thread_local"
            ):
                maps = self._forward(size)
            graphs[size] = (graph, maps)
        return graphs

    def _forward(self, size: int) -> Tensor:
        inputs = to_classifier_input(self._input[:size])
        maps: Tensor = self._backbone(inputs.to(self._precision, memory_format=torch.channels_last))
        return maps
