"""Rendered photos of bottles from above, sound and damaged, to train on without real ones.

Nothing here comes from a photo: every ring, glint and crack is drawn by numbers.
The same seed gives the same bytes.
"""

from worker.train.render.bottle import LABELS, Rendered, render_bottle
from worker.train.render.dataset import render_dataset

__all__ = ["LABELS", "Rendered", "render_bottle", "render_dataset"]
