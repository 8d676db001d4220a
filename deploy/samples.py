"""The bundled sample photos, through the service that has just come up."""

from pathlib import Path

from rich.console import Console

from api.client import DefectScope
from deploy.submit import submit_paths
from shared.sample_photos import SAMPLES


def show_samples(url: str, api_key: str, overlays: Path, console: Console) -> None:
    """Submit them like any photo, print the table, save the overlays to look at."""
    submit_paths(
        DefectScope(url, api_key),
        [str(SAMPLES)],
        {"product": "bottle", "station": "samples"},
        overlays=overlays,
        as_json=False,
        console=console,
    )
    console.print(f"Grad-CAM overlays of these photos: {overlays}")
