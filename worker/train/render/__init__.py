"""Rendered photos of bottles from above, sound and damaged, to train on without real ones.

No pixel comes from a photo: every ring, glint and crack is drawn by numbers. The numbers were
chosen by looking at real ones, the photos of MVTec AD bottle (Bergmann et al., CVPR 2019).
The same seed gives the same bytes.
"""

from worker.train.render.bottle import LABELS, Rendered, render_bottle
from worker.train.render.dataset import render_dataset

__all__ = ["LABELS", "Rendered", "render_bottle", "render_dataset"]
