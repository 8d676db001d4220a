"""From the bytes of a file to the picture that a person sees, or an error.

JPEG goes through TurboJPEG, told to take every warning for an error: OpenCV and
Pillow hand out a picture that is half grey where data are missing or damaged.
PNG is inflated by ISA-L and goes through OpenCV, whose libpng is strict by itself.
Both are given only the parts of the file that make pixels, so that broken or
hostile metadata can do nothing, and orientation is applied here, once.
"""

import re
import struct

import cv2
import numpy as np
import simplejpeg
from cv2.typing import MatLike
from numpy.typing import NDArray

from shared.errors import UnreadableImage
from shared.image_headers import read_structure
from shared.jpeg_structure import JpegStructure
from shared.png_structure import PngStructure
from worker.inspect.inflate import without_metadata

# Pictures are decoded side by side in threads; more threads below those only fight for the cores.
cv2.setNumThreads(1)

Pixels = NDArray[np.uint8]

_UPRIGHT = 1
_ORIENTATION_TAG = 0x0112
_SHORT = 3
_STRIP = 128
"""Rows."""
_LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0xd9")


def decode(data: bytes) -> Pixels:
    """The picture of a JPEG or PNG as a person sees it: (H, W, 3) RGB, 0 to 255.

    Turned as Exif says, grey and CMYK made RGB, 16 bits rounded to 8, and
    whatever is transparent laid over white. Colour profiles are not applied.
    Raises NotAnImage, UnreadableImage or ImageOutOfBounds. A file that was cut
    off is never handed out as if it were whole, and a PNG has checksums; but a
    JPEG has none, and a few wrong bytes can happen to be another valid picture.
    """
    structure = read_structure(data)
    if isinstance(structure, JpegStructure):
        pixels = _decode_jpeg(structure)
    else:
        pixels = _decode_png(structure)
    return _turn_upright(pixels, _orientation(structure.exif))


def _decode_jpeg(structure: JpegStructure) -> Pixels:
    colours = "CMYK" if structure.components == 4 else "RGB"
    try:
        pixels = _decode_strictly(b"".join(structure.essentials), colours)
    except ValueError as error:
        raise UnreadableImage(
            f"The picture data of the JPEG are damaged ({error}). Send the whole file again."
        ) from error
    return _cmyk_to_rgb(pixels) if colours == "CMYK" else pixels


def _decode_strictly(jpeg: bytes, colours: str) -> Pixels:
    """(H, W, 3 or 4); raises ValueError where libjpeg would only warn."""
    try:
        return np.asarray(simplejpeg.decode_jpeg(jpeg, colours, strict=True), np.uint8)
    except ValueError as error:
        padding = _camera_padding(jpeg, str(error))
        if not padding:
            raise
    jpeg = jpeg[: -2 - padding] + jpeg[-2:]
    return np.asarray(simplejpeg.decode_jpeg(jpeg, colours, strict=True), np.uint8)


def _camera_padding(jpeg: bytes, complaint: str) -> int:
    """How many zeros a camera has put between picture data and EOI; 0 if that is not it.

    Left-over bytes that are not zero are data: the decoder lost its way before them.
    """
    match = _LEFT_OVER.search(complaint)
    if match is None:
        return 0
    length = int(match[1])
    return 0 if jpeg[-2 - length : -2].strip(b"\0") else length


def _cmyk_to_rgb(cmyk: Pixels) -> Pixels:
    """(H, W, 3) from (H, W, 4) in which 255 is no ink.

    That is how Adobe writes CMYK and how browsers, Pillow and OpenCV read all of it.
    """
    rgb = np.empty((*cmyk.shape[:2], 3), np.uint8)
    for top in range(0, len(rgb), _STRIP):  # so that what is in between takes no memory
        *inks, black = cv2.split(cmyk[top : top + _STRIP])
        rgb[top : top + _STRIP] = cv2.merge(
            [cv2.multiply(ink, black, scale=1 / 255) for ink in inks]
        )
    return rgb


def _decode_png(structure: PngStructure) -> Pixels:
    png = np.frombuffer(without_metadata(structure), np.uint8)
    # As libpng gives it, where nothing has to be made of it: the usual case.
    form = cv2.IMREAD_COLOR_RGB if structure.is_plain_rgb else cv2.IMREAD_UNCHANGED
    try:
        pixels = cv2.imdecode(png, form)
    except cv2.error as error:
        raise UnreadableImage(
            f"The picture data of the PNG cannot be decoded ({error.err}). Save it again."
        ) from error
    if pixels is None:
        raise UnreadableImage("The picture data of the PNG are damaged. Send the whole file again.")
    if structure.is_plain_rgb:
        return np.asarray(pixels, np.uint8)
    if structure.transparent_grey is not None:
        # OpenCV widens samples below 8 bits and ignores this kind of transparency.
        widening = 255 // ((1 << structure.bit_depth) - 1) if structure.bit_depth < 8 else 1
        white = 65535 if structure.bit_depth == 16 else 255
        pixels[pixels == structure.transparent_grey * widening] = white
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        return _over_white(pixels)
    to_rgb = cv2.COLOR_GRAY2RGB if pixels.ndim == 2 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(_to_8_bits(pixels), to_rgb), np.uint8)


def _to_8_bits(samples: MatLike) -> MatLike:
    """To the nearest of 256 levels, where OpenCV by itself cuts the low byte off."""
    return (
        cv2.convertScaleAbs(samples, alpha=255 / 65535) if samples.dtype == np.uint16 else samples
    )


def _over_white(bgra: MatLike) -> Pixels:
    """(H, W, 3) RGB of a picture with alpha, laid on white paper at the depth that it has."""
    unit = 1 / (65535 if bgra.dtype == np.uint16 else 255)
    rgb = np.empty((*bgra.shape[:2], 3), np.uint8)
    for top in range(0, len(rgb), _STRIP):  # so that what is in between takes no memory
        blue, green, red, alpha = cv2.split(bgra[top : top + _STRIP])
        lacking = [
            cv2.multiply(cv2.bitwise_not(plane), alpha, scale=unit) for plane in (red, green, blue)
        ]
        rgb[top : top + _STRIP] = _to_8_bits(cv2.bitwise_not(cv2.merge(lacking)))
    return rgb


def _orientation(exif: bytes | None) -> int:
    """Exif orientation, 1 to 8; upright where the block says nothing or is broken.

    Only the first directory is read. An Exif block that lies costs the picture
    its orientation, never more.
    """
    if exif is None or exif[:4] not in (b"II*\0", b"MM\0*"):
        return _UPRIGHT
    order = "<" if exif[:1] == b"I" else ">"
    try:
        (directory,) = struct.unpack_from(order + "I", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, directory)
        for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, kind, count, value = struct.unpack_from(order + "HHIH", exif, entry)
            if tag == _ORIENTATION_TAG:
                is_sound = kind == _SHORT and count == 1 and 1 <= value <= 8
                return int(value) if is_sound else _UPRIGHT
    except struct.error:
        pass  # the block ends too early
    return _UPRIGHT


def _turn_upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo the way in which the camera was held; `orientation` as in Exif."""
    if orientation >= 5:  # rows and columns are swapped
        pixels = np.asarray(cv2.transpose(pixels), np.uint8)
    mirror = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    if mirror is None:
        return pixels
    # In its own memory: 45 megapixels take 135 MB.
    return np.asarray(cv2.flip(pixels, mirror, dst=pixels), np.uint8)
