"""The chunks of a PNG, walked from the signature to IEND without inflating a byte.

What passes here has lengths that fit, checksums that are right wherever pixels
depend on them, and its end. Metadata are not read, only stepped over: decoders
inflate them, and a few kilobytes of compressed text can become gigabytes.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from shared.errors import UnreadableImage

SIGNATURE = b"\x89PNG\r\n\x1a\n"

MAX_CHUNKS = 20_000
"""Writers put 8 KB and more into a chunk, the thriftiest one row of the picture; this many of
them hold 10 MB at 512 bytes each. Without a bound, 10 MB of empty chunks would be 800 000
turns of a Python loop."""

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_BIT_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_GREY, _RGB, _PALETTE, _GREY_ALPHA = 0, 2, 3, 4
_READ_ONCE = frozenset({b"PLTE", b"tRNS", b"eXIf"})
_DEFLATE_LIMIT = 1032
"""Bytes that one byte of deflated data can become at most: 258 for two bits."""
_WHOLE = ((0, 0, 1, 1),)
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
"""Passes: first column and row, and how far it is to the next."""

_SEND_AGAIN = "Send the whole file again."
_SAVE_AGAIN = "Save it again with another program, or as a JPEG."


@dataclass(frozen=True)
class PngStructure:
    """The picture of a PNG file, in an animated one the still; bytes behind IEND are ignored."""

    width: int
    height: int
    bit_depth: int
    colour_type: int
    is_interlaced: bool
    coded_chunks: memoryview
    """All IDAT, one behind the other."""
    coded_bytes: int
    transparent_grey: int | None
    """In a grey picture without alpha: the sample value that is see-through."""
    is_plain_rgb: bool
    """8 bits for red, green and blue, and nothing of it transparent."""
    exif: bytes | None
    """The TIFF block, as it is: it may be broken."""
    beginning: bytes
    """What stands before the picture data and makes pixels: signature, header, palette and
    transparency. `transparent_grey` is not in it, because decoders disagree on what to do with it.
    """

    @property
    def sample_bytes(self) -> int:
        """What the samples take once they are decoded: decoders make colour of grey with alpha."""
        each = 2 if self.bit_depth == 16 else 1
        channels = 4 if self.colour_type == _GREY_ALPHA else _CHANNELS[self.colour_type]
        return self.width * self.height * channels * each

    @property
    def filtered_bytes(self) -> int:
        """What the picture data are once they are inflated: rows, each behind its filter's byte."""
        total = 0
        for left, top, right, down in _ADAM7 if self.is_interlaced else _WHOLE:
            columns, rows = -(-(self.width - left) // right), -(-(self.height - top) // down)
            if columns > 0:
                total += rows * (1 + -(-columns * self._bits // 8))
        return total

    @property
    def codable_pixels(self) -> int:
        """No more pixels than these fit into the compressed data."""
        return self.coded_bytes * _DEFLATE_LIMIT * 8 // self._bits

    @property
    def _bits(self) -> int:
        """Of a pixel, as it is coded."""
        return self.bit_depth * _CHANNELS[self.colour_type]

    def deflated(self) -> Iterator[memoryview]:
        """The compressed picture data, piece by piece."""
        at = 0
        while at < len(self.coded_chunks):
            (length,) = struct.unpack_from(">I", self.coded_chunks, at)
            yield self.coded_chunks[at + 8 : at + 8 + length]
            at += length + 12


class _Chunk(NamedTuple):
    kind: bytes
    start: int
    """Where its length stands."""
    body: int
    body_end: int
    end: int
    """Behind its checksum."""


def walk(data: bytes) -> PngStructure:
    """Read every chunk of `data`, which starts with the signature, up to IEND.

    Raises UnreadableImage for anything that is cut, contradictory or fails its
    checksum. Takes no copy of the compressed data.
    """
    view = memoryview(data)
    chunks = _chunks(data)
    width, height, bit_depth, colour_type, is_interlaced = _read_header(data, next(chunks, None))
    first: dict[bytes, _Chunk] = {}  # of each kind that counts once
    coded_start = coded_end = coded_bytes = 0
    for chunk in chunks:
        if chunk.kind == b"IDAT":
            if coded_start and chunk.start != coded_end:
                _refuse("has its picture data torn apart", _SEND_AGAIN)
            coded_start, coded_end = coded_start or chunk.start, chunk.end
            coded_bytes += chunk.body_end - chunk.body
            continue
        if _is_critical(chunk.kind):
            _check_critical(chunk, is_second=chunk.kind in first or chunk.kind == b"IHDR")
        if chunk.kind in _READ_ONCE:
            first.setdefault(chunk.kind, chunk)
    if not coded_start:
        _refuse("holds no picture", _SEND_AGAIN)

    palette, transparency = (
        chunk if chunk is not None and chunk.start < coded_start else None
        for chunk in (first.get(b"PLTE"), first.get(b"tRNS"))
    )
    parts = [view[:33]]  # signature and IHDR
    if colour_type == _PALETTE:
        if palette is None:
            _refuse("lacks its palette", _SEND_AGAIN)
        parts.append(view[palette.start : palette.end])
    if transparency is not None:
        if not _has_right_checksum(data, transparency):
            _refuse("fails the checksum of its transparency", _SEND_AGAIN)
        if colour_type in (_RGB, _PALETTE):
            parts.append(view[transparency.start : transparency.end])
    return PngStructure(
        width=width,
        height=height,
        bit_depth=bit_depth,
        colour_type=colour_type,
        is_interlaced=is_interlaced,
        coded_chunks=view[coded_start:coded_end],
        coded_bytes=coded_bytes,
        transparent_grey=(
            _grey_sample(data, transparency, bit_depth)
            if transparency is not None and colour_type == _GREY
            else None
        ),
        is_plain_rgb=colour_type == _RGB and bit_depth == 8 and transparency is None,
        exif=_sound_exif(data, first.get(b"eXIf")),
        beginning=b"".join(parts),
    )


def _refuse(problem: str, remedy: str) -> NoReturn:
    raise UnreadableImage(f"The PNG {problem}. {remedy}")


def _chunks(data: bytes) -> Iterator[_Chunk]:
    """Every chunk, IEND included, those that make pixels with their checksum verified."""
    position = len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        if position + 12 > len(data):
            _refuse("is cut off", _SEND_AGAIN)
        length, kind = struct.unpack_from(">I4s", data, position)
        body, body_end = position + 8, position + 8 + length
        if not (kind.isalpha() and kind.isascii()):
            _refuse(f"is damaged at byte {position}", _SEND_AGAIN)
        if body_end + 4 > len(data):
            _refuse(f"is cut off inside its chunk {kind.decode('ascii')}", _SEND_AGAIN)
        chunk = _Chunk(kind, position, body, body_end, body_end + 4)
        if _is_critical(kind) and not _has_right_checksum(data, chunk):
            _refuse(f"fails the checksum of its chunk {kind.decode('ascii')}", _SEND_AGAIN)
        yield chunk
        if kind == b"IEND":
            return
        position = chunk.end
    _refuse(f"has more than {MAX_CHUNKS} chunks", _SAVE_AGAIN)


def _is_critical(kind: bytes) -> bool:
    return kind[:1].isupper()


def _has_right_checksum(data: bytes, chunk: _Chunk) -> bool:
    with memoryview(data) as view:
        computed = zlib.crc32(view[chunk.start + 4 : chunk.body_end])
    return computed == int.from_bytes(data[chunk.body_end : chunk.end])


def _check_critical(chunk: _Chunk, *, is_second: bool) -> None:
    kind, length = chunk.kind, chunk.body_end - chunk.body
    if kind not in (b"IHDR", b"PLTE", b"IEND"):
        _refuse(f"needs {kind.decode('ascii')}, which we do not know", _SAVE_AGAIN)
    if is_second:
        _refuse(f"has more than one {kind.decode('ascii')}", _SEND_AGAIN)
    if kind == b"PLTE" and (length % 3 or not 3 <= length <= 3 * 256):
        _refuse("has a broken palette", _SEND_AGAIN)
    if kind == b"IEND" and length:
        _refuse("has a broken end", _SEND_AGAIN)


def _grey_sample(data: bytes, transparency: _Chunk, bit_depth: int) -> int | None:
    """The see-through sample value, or None where the chunk is malformed: viewers ignore it."""
    if transparency.body_end - transparency.body != 2:
        return None
    return int.from_bytes(data[transparency.body : transparency.body_end]) % (1 << bit_depth)


def _sound_exif(data: bytes, chunk: _Chunk | None) -> bytes | None:
    """The Exif block, unless its checksum is wrong: no pixel hangs on it."""
    if chunk is None or not _has_right_checksum(data, chunk):
        return None
    return data[chunk.body : chunk.body_end]


def _read_header(data: bytes, chunk: _Chunk | None) -> tuple[int, int, int, int, bool]:
    """Width, height, bit depth, colour type and whether it is interlaced."""
    if chunk is None or chunk.kind != b"IHDR" or chunk.body_end - chunk.body != 13:
        _refuse("does not start with its header", _SEND_AGAIN)
    width, height, bit_depth, colour_type, compression, filtering, interlacing = struct.unpack_from(
        ">IIBBBBB", data, chunk.body
    )
    if not width or not height:
        _refuse(f"is {width} x {height} pixels", _SEND_AGAIN)
    if bit_depth not in _BIT_DEPTHS.get(colour_type, ()):
        _refuse(f"has colour type {colour_type} with {bit_depth} bits", _SAVE_AGAIN)
    if compression or filtering or interlacing > 1:
        _refuse("is packed in a way that PNG does not have", _SAVE_AGAIN)
    return width, height, bit_depth, colour_type, bool(interlacing)


def size_of(start: bytes) -> tuple[int, int] | None:
    """Width and height by the header chunk, which comes first; None if it is not there."""
    if len(start) < 24 or start[12:16] != b"IHDR":
        return None
    width, height = struct.unpack_from(">II", start, 16)
    return width, height
