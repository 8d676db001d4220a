"""The networks in OpenVINO, for CPUs: one photo a request, as many requests as the cores can use.

One photo at a time in each stream keeps its activations in the cache, which batches do not; and
what a photo gets cannot depend on its neighbours.
"""

import queue
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor, nn

from shared.errors import DamagedBundle
from worker.inspect.autoencoder import second_opinion
from worker.inspect.backbone import CELLS, CHANNELS, verify
from worker.inspect.bundle import Parts, ProductModel
from worker.inspect.engines.densenet_graph import densenet_graph
from worker.inspect.engines.openvino_import import ov
from worker.inspect.engines.protocol import Anomalies
from worker.inspect.preprocess import SIDE

FP32 = "openvino-fp32"
BF16 = "openvino-bf16"
INT8 = "openvino-int8"

_PRECISION = {FP32: "f32", BF16: "bf16", INT8: "f32"}
"""Of the layers that are not quantised."""
_MOST_AUTOENCODERS = 64
"""Compiled at once, some 5 MB each; the least recently used one goes first."""


class OpenVinoEngine:
    """Backbone in fp32, bf16 or int8, autoencoders in fp32, on the CPU."""

    device = torch.device("cpu")

    def __init__(self, name: str, graph: ov.Model, *, backbone_sha256: str) -> None:
        """`graph`: as `read_graph` or `read_quantised_graph` gives it."""
        self.name = name
        self.backbone_sha256 = backbone_sha256
        self._backbone = _Requests(_compile(graph, _PRECISION[name]))
        self._compiling = threading.Lock()
        self._autoencoders: OrderedDict[str, _Requests] = OrderedDict()

    @property
    def batch_size(self) -> int:
        return 2 * len(self._backbone)

    def parts_of(self, model: ProductModel) -> Parts:
        return model.parts

    def features(self, photos: NDArray[np.uint8]) -> Tensor:
        maps = np.empty((len(photos), CHANNELS, CELLS, CELLS), np.float32)
        for index, (answer,) in self._backbone.run(photos):
            maps[index] = answer[0]
        return torch.from_numpy(maps)

    def anomalies(self, photos: NDArray[np.uint8], model: ProductModel) -> Anomalies:
        mses = np.empty(len(photos), np.float32)
        maps = np.empty((len(photos), SIDE, SIDE), np.float32)
        for index, (mse, strangeness) in self._autoencoder(model).run(photos):
            mses[index], maps[index] = mse[0], strangeness[0]
        return Anomalies(torch.from_numpy(mses), torch.from_numpy(maps))

    def _autoencoder(self, model: ProductModel) -> "_Requests":
        with self._compiling:
            if model.digest not in self._autoencoders:
                # In fp32: the score counts standard deviations of errors that are small already.
                compiled = _compile(second_opinion_graph(model.parts), "f32")
                self._autoencoders[model.digest] = _Requests(compiled)
                while len(self._autoencoders) > _MOST_AUTOENCODERS:
                    self._autoencoders.popitem(last=False)
            self._autoencoders.move_to_end(model.digest)
            return self._autoencoders[model.digest]


class _Requests:
    """The requests of one compiled network, lent to whichever thread has a photo."""

    def __init__(self, network: ov.CompiledModel) -> None:
        self._outputs = range(len(network.outputs))
        # Two more than can run, so that the next photo waits in the engine and not in Python.
        self._count: int = network.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") + 2
        self._free: queue.SimpleQueue[ov.InferRequest] = queue.SimpleQueue()
        for _ in range(self._count):
            self._free.put(network.create_infer_request())

    def __len__(self) -> int:
        return self._count

    def run(self, photos: NDArray[np.uint8]) -> Iterator[tuple[int, list[NDArray[np.float32]]]]:
        """Index and outputs of each photo (256, 256, 3); outputs are valid until the next one."""
        photos = np.ascontiguousarray(photos)
        running: list[tuple[int, ov.InferRequest]] = []
        try:
            for index in range(len(photos)):
                while (request := self._take(wait=not running)) is None:
                    yield self._finished(running)
                request.set_input_tensor(ov.Tensor(photos[index : index + 1], shared_memory=True))
                request.start_async()
                running.append((index, request))
            while running:
                yield self._finished(running)
        finally:
            # After an error: a request that still runs reads memory that is about to go.
            for _, request in running:
                request.wait()
                self._free.put(request)

    def _take(self, *, wait: bool) -> ov.InferRequest | None:
        """A free request. Who has some already never waits for others, or all would wait."""
        try:
            return self._free.get(block=wait)
        except queue.Empty:
            return None

    def _finished(
        self, running: list[tuple[int, ov.InferRequest]]
    ) -> tuple[int, list[NDArray[np.float32]]]:
        index, request = running[0]
        request.wait()
        outputs = [np.array(request.get_output_tensor(number).data) for number in self._outputs]
        del running[0]
        self._free.put(request)
        return index, outputs


class _SecondOpinion(nn.Module):
    """MSE and anomaly map as one network, so that OpenVINO gets all of it."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.autoencoder = parts.autoencoder
        self.good = parts.good_residuals

    def forward(self, photos: Tensor) -> tuple[Tensor, Tensor]:
        return second_opinion(photos, self.autoencoder, self.good)


def read_graph(backbone: Path, *, sha256: str, in_bf16: bool = False) -> ov.Model:
    """The backbone of this file, see `densenet_graph`.

    Raises DamagedBundle if it is not of the digest or no backbone.
    """
    verify(backbone, sha256)
    try:
        return densenet_graph(
            {name: weight.astype(np.float32) for name, weight in load_file(backbone).items()},
            in_bf16=in_bf16,
        )
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise DamagedBundle(f"{backbone} does not hold the weights of DenseNet-121") from error


def second_opinion_graph(parts: Parts) -> ov.Model:
    """One photo (1, 256, 256, 3), uint8, in; MSE (1,) and anomaly map (1, 256, 256) out."""
    shape = [1, SIDE, SIDE, 3]
    with warnings.catch_warnings():
        # The trace keeps what depends on the shape as it is for this one, which is meant.
        warnings.simplefilter("ignore")
        return ov.convert_model(
            _SecondOpinion(parts).eval(),
            example_input=torch.zeros(shape, dtype=torch.uint8),
            input=[(shape, ov.Type.u8)],
        )


def has_fast_bf16() -> bool:
    """Whether this CPU multiplies bf16 by itself; emulated it would only be less exact."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _compile(graph: ov.Model, precision: str) -> ov.CompiledModel:
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": precision,
        # Decoding runs on the same cores: a stream that is bound to a busy one would wait for it.
        "ENABLE_CPU_PINNING": False,
    }
    return _core().compile_model(graph, "CPU", options)


@lru_cache(maxsize=1)
def _core() -> ov.Core:
    return ov.Core()
