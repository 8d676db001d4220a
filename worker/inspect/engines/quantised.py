"""The backbone in int8 as a file of a bundle: an OpenVINO graph in safetensors.

Quantised by NNCF at training, with the product's own photos (see worker/train/quantisation.py).
Reading it executes nothing: it is layers and numbers.
"""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from shared.errors import DamagedBundle
from worker.inspect.engines.openvino_import import ov

QUANTISED = "backbone-int8.safetensors"


def write_quantised_graph(graph: ov.Model, file: Path) -> None:
    """Write layers (XML) and numbers as two tensors of bytes; the same graph gives the same file.

    Renames the graph's layers.
    """
    _name_by_position(graph)
    folder = file.parent
    layers, numbers = folder / f"{file.stem}.xml", folder / f"{file.stem}.bin"
    try:
        ov.save_model(graph, layers, compress_to_fp16=False)
        save_file(
            {
                "layers": np.frombuffer(layers.read_bytes(), np.uint8),
                "numbers": np.frombuffer(numbers.read_bytes(), np.uint8),
            },
            file,
        )
    finally:
        layers.unlink(missing_ok=True)
        numbers.unlink(missing_ok=True)


def read_quantised_graph(file: Path) -> ov.Model:
    """Raises DamagedBundle if the file is none of `write_quantised_graph`."""
    try:
        tensors = load_file(file)
        return ov.Core().read_model(tensors["layers"].tobytes(), tensors["numbers"].tobytes())
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise DamagedBundle(f"{file} does not hold a quantised backbone: {error}") from error


def _name_by_position(graph: ov.Model) -> None:
    """OpenVINO numbers layers through the process: the names would tell what else it has done."""
    for position, layer in enumerate(graph.get_ordered_ops()):
        name = f"{layer.get_type_name()}_{position}"
        layer.set_friendly_name(name)
        for port, output in enumerate(layer.outputs()):
            output.get_tensor().set_names({f"{name}.{port}"} if output.get_names() else set())
