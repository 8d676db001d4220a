"""The only door to OpenVINO: import `ov`, `ops` and NNCF's `quantize` by way of this module.

OpenVINO reports every import and conversion to its maker's statistics unless the person at the
keyboard has declined. A service in a factory tells nobody anything: without the package that
sends, OpenVINO and NNCF put an empty one in its place.
"""

import sys

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino as ov  # noqa: E402
from openvino import opset13 as ops  # noqa: E402

__all__ = ["ops", "ov"]
