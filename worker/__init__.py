"""The worker: sole owner of torch and of decoded pictures."""

import os

from shared.image_headers import MAX_PIXELS

# OpenCV reads this once, while it is imported, hence here, ahead of every module that does.
# Without it a PNG of 31 KB may cost a gigabyte. Our own door (`shared/image_headers.py`) comes
# first; this one holds for whatever else calls cv2.imread.
os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(MAX_PIXELS)
