"""The bundled sample photos: six rendered bottles, to try the service with."""

from pathlib import Path

SAMPLES = Path(__file__).parent / "samples"
