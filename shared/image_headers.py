"""The door for pictures: JPEG or PNG by content, whole, and of a size that we judge.

Nothing here decodes a pixel or allocates more than a header's worth, so that a
gateway can look at hostile bytes. What a file name or a Content-Type says does
not count.
"""

from dataclasses import dataclass

from shared import jpeg_structure, png_structure
from shared.errors import ImageOutOfBounds, NotAnImage, UnreadableImage
from shared.jpeg_structure import JpegStructure
from shared.png_structure import PngStructure

MIN_SIDE = 128
MAX_PIXELS = 45_000_000
"""A decoder may hold two copies of 3 bytes each: 270 MB."""


@dataclass(frozen=True)
class ImageHeader:
    media_type: str
    """`image/jpeg` or `image/png`."""
    width: int
    """Pixels as stored: an Exif orientation may turn the picture afterwards."""
    height: int


def read_header(
    data: bytes, *, min_side: int = MIN_SIDE, max_pixels: int = MAX_PIXELS
) -> ImageHeader:
    """Kind and size of a picture whose structure is sound from start to end.

    min_side, max_pixels: bounds on the shorter side and on width x height.
    Raises NotAnImage, UnreadableImage or ImageOutOfBounds, each saying what to
    do. Pixel data may still turn out damaged when they are decoded.
    """
    structure = read_structure(data, min_side=min_side, max_pixels=max_pixels)
    media_type = "image/jpeg" if isinstance(structure, JpegStructure) else "image/png"
    return ImageHeader(media_type, structure.width, structure.height)


def sniff_header(
    start: bytes, *, min_side: int = MIN_SIDE, max_pixels: int = MAX_PIXELS
) -> ImageHeader:
    """Kind and size by the start of a file alone, for pictures that we have not received.

    start: its first 64 KiB or more. Raises NotAnImage, UnreadableImage or ImageOutOfBounds. That
    the rest is sound is for whoever reads it.
    """
    if start.startswith(png_structure.SIGNATURE):
        size, media_type = png_structure.size_of(start), "image/png"
    elif start.startswith(b"\xff\xd8\xff"):
        size, media_type = jpeg_structure.size_of(start), "image/jpeg"
    else:
        raise NotAnImage("The file is neither a JPEG nor a PNG. Convert it to one of them.")
    if size is None:
        raise UnreadableImage("The start of the file does not say how large the picture is.")
    width, height = size
    _check_size(width, height, min_side=min_side, max_pixels=max_pixels)
    return ImageHeader(media_type, width, height)


def _check_size(width: int, height: int, *, min_side: int, max_pixels: int) -> None:
    if min(width, height) < min_side:
        raise ImageOutOfBounds(
            f"The picture is {width} x {height} pixels; send one of at least "
            f"{min_side} x {min_side}."
        )
    if width * height > max_pixels:
        raise ImageOutOfBounds(
            f"The picture is {width} x {height} pixels, which is {width * height:,}; "
            f"scale it down to at most {max_pixels:,}."
        )


def read_structure(
    data: bytes, *, min_side: int = MIN_SIDE, max_pixels: int = MAX_PIXELS
) -> JpegStructure | PngStructure:
    """As `read_header`, but tells a decoder where the parts are."""
    structure = _walk(data)
    width, height = structure.width, structure.height
    _check_size(width, height, min_side=min_side, max_pixels=max_pixels)
    # As much as 8-bit colour takes: libpng's decoder in OpenCV holds the samples twice.
    if structure.sample_bytes > 3 * max_pixels:
        raise ImageOutOfBounds(
            f"The picture is {width} x {height} pixels of {structure.sample_bytes:,} bytes; "
            f"save it as 8-bit RGB, or scale it down to at most {3 * max_pixels:,} bytes."
        )
    if (
        isinstance(structure, JpegStructure)
        and structure.coefficient_bytes
        and structure.sample_bytes + structure.coefficient_bytes > 6 * max_pixels
    ):
        raise ImageOutOfBounds(
            f"The picture is {width} x {height} pixels and progressive, which takes too much "
            "memory; save it as a baseline JPEG, or scale it down."
        )
    # A lie about the size is told before the bytes for it would be allocated.
    if width * height > structure.codable_pixels:
        raise UnreadableImage(
            f"The file holds {structure.coded_bytes:,} bytes of picture data, too few for "
            f"{width} x {height} pixels. Send the whole file again."
        )
    return structure


def _walk(data: bytes) -> JpegStructure | PngStructure:
    if data.startswith(png_structure.SIGNATURE):
        return png_structure.walk(data)
    if data.startswith(b"\xff\xd8\xff"):
        return jpeg_structure.walk(data)
    if data.startswith(b"\x89PNG"):
        raise UnreadableImage("The PNG was damaged on its way as text. Send it again as binary.")
    if not data:
        raise NotAnImage("The file is empty. Send a JPEG or a PNG.")
    raise NotAnImage("The file is neither a JPEG nor a PNG. Convert it to one of them.")
