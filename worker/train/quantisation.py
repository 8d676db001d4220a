"""The backbone in int8, quantised with the product's own photos, where its verdicts agree.

Post-training quantisation by NNCF: the ranges of activations are measured on good photos, and
the biases corrected by what rounding shifted.
"""

import io
import logging
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.manifest import Manifest
from worker.inspect.bundle import Parts, ProductModel, artifact_of
from worker.inspect.engines import openvino_engine
from worker.inspect.engines.choice import Agreement, measure_agreement
from worker.inspect.engines.openvino_engine import OpenVinoEngine, read_graph
from worker.inspect.engines.openvino_import import ov
from worker.inspect.engines.quantised import QUANTISED, write_quantised_graph
from worker.inspect.reference import REFERENCE, read_reference

PHOTOS = 24
"""That ranges are measured on."""


def quantise(
    photos: Sequence[NDArray[np.uint8]],
    manifest: Manifest,
    parts: Parts,
    *,
    backbone: Path,
    folder: Path,
) -> tuple[Manifest, Agreement]:
    """Write the backbone in int8 to `folder` and name it in the manifest, if its verdicts agree.

    `photos`: good ones, (256, 256, 3) each. `folder` holds the manifest's reference.
    """
    graph = quantise_graph(read_graph(backbone, sha256=manifest.backbone.sha256), photos)
    engine = OpenVinoEngine(openvino_engine.INT8, graph, backbone_sha256=manifest.backbone.sha256)
    reference = folder / REFERENCE
    model = ProductModel(manifest, manifest.digest, parts, backbone, reference, None)
    agreement = measure_agreement(engine, model, read_reference(reference))
    if not agreement.is_good:
        return manifest, agreement
    file = folder / QUANTISED
    write_quantised_graph(graph, file)
    return manifest.model_copy(update={"quantised": artifact_of(file)}), agreement


def quantise_graph(graph: ov.Model, photos: Sequence[NDArray[np.uint8]]) -> ov.Model:
    """The graph with int8 where NNCF puts it, ranges from up to `PHOTOS` of the photos."""
    # It takes seconds to import, and only training needs it.
    import nncf  # noqa: PLC0415

    chosen = [photos[i][None] for i in np.linspace(0, len(photos) - 1, PHOTOS).astype(int)]
    nncf.set_log_level(logging.ERROR)
    with redirect_stdout(io.StringIO()):  # it draws progress bars of its own
        return nncf.quantize(
            graph,
            nncf.Dataset(chosen),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(chosen),
        )
