"""Which engine judges for a model: the fastest of this machine that agrees with the reference.

The order is fixed and not measured: a worker that starts again must come to the same choice, or
the same photo would get another score.
"""

import threading
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from shared.errors import DefectScopeError, InvalidInput
from worker.inspect.bundle import ProductModel
from worker.inspect.engines import cuda_engine, openvino_engine
from worker.inspect.engines.cuda_engine import CudaEngine
from worker.inspect.engines.openvino_engine import OpenVinoEngine, has_fast_bf16, read_graph
from worker.inspect.engines.protocol import Engine
from worker.inspect.engines.quantised import read_quantised_graph
from worker.inspect.engines.torch_engine import TorchEngine
from worker.inspect.pipeline import Inspector
from worker.inspect.reference import Reference, read_reference

log = structlog.stdlib.get_logger()

AUTO = "auto"
NAMES = (
    cuda_engine.BF16,
    cuda_engine.FP32,
    openvino_engine.INT8,
    openvino_engine.BF16,
    openvino_engine.FP32,
    TorchEngine.name,
)
"""Fastest first."""

MOST_DIFFERENCE = 0.02
"""In the probability of a defect, on any reference photo."""


@dataclass(frozen=True)
class Agreement:
    """How an engine's answers differ from the reference, over the reference photos."""

    difference: float
    """The largest one in the probability of a defect."""
    flips: int
    """Photos that change sides at a threshold; not those whose probability is so near to it that
    a person looks anyway."""

    @property
    def is_good(self) -> bool:
        return self.flips == 0 and self.difference <= MOST_DIFFERENCE


class Engines:
    """The engines of this process; models that can share one do."""

    def __init__(self, wanted: str = AUTO) -> None:
        """`wanted`: `auto`, or the name of the engine to take whatever it says.

        Raises InvalidInput for a name that there is not.
        """
        if wanted not in (AUTO, *NAMES):
            raise InvalidInput(
                f"There is no engine {wanted!r}: {', '.join((AUTO, *NAMES))}.", field="engine"
            )
        self._wanted = wanted
        self._choosing = threading.Lock()
        self._engines: WeakValueDictionary[tuple[str, str], Engine] = WeakValueDictionary()

    def choose(self, model: ProductModel) -> Engine:
        """The engine for this model, compiled and warm.

        Raises DamagedBundle where its files are not what they should be, InvalidInput where the
        wanted engine cannot run here.
        """
        with self._choosing:
            if self._wanted != AUTO:
                return self._choose_wanted(model)
            reference = read_reference(model.reference)
            offered = _offered(model)
            for name in offered:
                try:
                    engine = self._make(name, model)
                    agreement = measure_agreement(engine, model, reference)
                except Exception as error:
                    # A driver too old, or memory that others have: slower is better than nothing.
                    if isinstance(error, DefectScopeError) or name == offered[-1]:
                        raise
                    log.exception("engine_failed", product=model.manifest.product, engine=name)
                    continue
                if agreement.is_good:
                    log.info(
                        "engine_chosen",
                        product=model.manifest.product,
                        engine=name,
                        difference=round(agreement.difference, 5),
                    )
                    return engine
                log.info(
                    "engine_disagrees",
                    product=model.manifest.product,
                    engine=name,
                    difference=round(agreement.difference, 5),
                    flips=agreement.flips,
                )
            # Not the engine is odd then, but the machine or the bundle; somebody has to see it.
            log.warning("no_engine_agrees", product=model.manifest.product, engine=engine.name)
            return engine

    def _choose_wanted(self, model: ProductModel) -> Engine:
        if self._wanted not in _offered(model):
            raise InvalidInput(
                f"The engine {self._wanted} cannot run {model.manifest.product} here; "
                f"{', '.join(_offered(model))} can.",
                field="engine",
            )
        engine = self._make(self._wanted, model)
        agreement = measure_agreement(engine, model, read_reference(model.reference))
        tell = log.info if agreement.is_good else log.warning
        tell(
            "engine_set",
            product=model.manifest.product,
            engine=engine.name,
            difference=round(agreement.difference, 5),
            flips=agreement.flips,
        )
        return engine

    def _make(self, name: str, model: ProductModel) -> Engine:
        backbone = model.manifest.backbone.sha256
        quantised = model.manifest.quantised
        weights = quantised.sha256 if quantised and name == openvino_engine.INT8 else backbone
        engine = self._engines.get((name, weights))
        if engine is None:
            engine = _make(name, model)
            self._engines[name, weights] = engine
        return engine


def measure_agreement(engine: Engine, model: ProductModel, reference: Reference) -> Agreement:
    """Judge the reference photos with this engine, which is warm afterwards."""
    inspector = Inspector(engine)
    found = inspector.read(reference.pixels, engine.features(reference.pixels), model)
    limits = model.manifest.thresholds
    probabilities, said = found.defect_probabilities.numpy(), reference.defect_probabilities
    is_near = (said >= limits.near_threshold_low) & (said < limits.near_threshold_high)
    flips = (
        (_flipped(probabilities, limits.defect_probability, said) & ~is_near)
        | _flipped(found.anomaly_scores.numpy(), limits.anomaly_score, reference.anomaly_scores)
        | _flipped(
            found.domain_distances.numpy(), limits.domain_distance, reference.domain_distances
        )
    )
    return Agreement(float(np.abs(probabilities - said).max()), int(flips.sum()))


def exact_engine(backbone: Path, *, sha256: str) -> Engine:
    """The fastest fp32 engine of this machine: for training, and for what others are held against.

    Raises DamagedBundle if the file is not of the digest or no backbone.
    """
    if torch.cuda.is_available():
        try:
            return CudaEngine(cuda_engine.FP32, backbone, sha256=sha256)
        except DefectScopeError:
            raise
        except Exception:
            log.exception("engine_failed", engine=cuda_engine.FP32)
    graph = read_graph(backbone, sha256=sha256)
    return OpenVinoEngine(openvino_engine.FP32, graph, backbone_sha256=sha256)


def _offered(model: ProductModel) -> list[str]:
    """The engines that can run this model on this machine, fastest first."""
    offered = [openvino_engine.FP32, TorchEngine.name]
    if has_fast_bf16():
        offered.insert(0, openvino_engine.BF16)
    if model.quantised is not None:
        offered.insert(0, openvino_engine.INT8)
    if torch.cuda.is_available():
        offered = [cuda_engine.BF16, cuda_engine.FP32, *offered]
    return offered


def _make(name: str, model: ProductModel) -> Engine:
    sha256 = model.manifest.backbone.sha256
    if name in (cuda_engine.BF16, cuda_engine.FP32):
        return CudaEngine(name, model.backbone, sha256=sha256)
    if name == TorchEngine.name:
        return TorchEngine(model.backbone, sha256=sha256)
    if name == openvino_engine.INT8 and model.quantised is not None:
        graph = read_quantised_graph(model.quantised)
    else:
        in_bf16 = name == openvino_engine.BF16
        graph = read_graph(model.backbone, sha256=sha256, in_bf16=in_bf16)
    return OpenVinoEngine(name, graph, backbone_sha256=sha256)


def _flipped(
    values: NDArray[np.float32], limit: float, said: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Where a value lies on the other side of the limit than the reference does."""
    return np.asarray((values >= limit) != (said >= limit), np.bool_)
