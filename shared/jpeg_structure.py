"""The segments of a JPEG, walked from SOI to EOI without decoding a pixel.

What passes here is whole as far as structure can tell: every length fits, every
component is sent to its last bit, the end is there. What does not pass never
reaches a decoder, because decoders paint grey where data are missing and say
nothing. Marker names are those of ITU-T T.81.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from shared.errors import UnreadableImage

MAX_SCANS = 32
"""libjpeg's own scripts have 6 scans for grey, 10 for colour and 18 for CMYK. Each scan of a
progressive file passes over all its blocks whatever it holds, at most 65 ms for 50 megapixels:
32 of them stay below 3 s, where 500 in a file of 224 KB would take 17 s."""

MAX_SEGMENTS = 2000
"""A colour profile needs up to 255, a long XMP block 160 for 10 MB. Without a bound, 10 MB
of empty comments would be 2.5 million turns of a Python loop."""

_SOI, _EOI, _SOS, _DNL = 0xD8, 0xD9, 0xDA, 0xDC
_DHT, _DQT, _DRI = 0xC4, 0xDB, 0xDD
_SEQUENTIAL = (0xC0, 0xC1)
_PROGRESSIVE = 0xC2
_APP0, _APP1, _APP14, _COM = 0xE0, 0xE1, 0xEE, 0xFE
_METADATA = frozenset((*range(0xE0, 0xF0), _COM))
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD8)))
_REFUSED_KINDS = {
    0xC3: "lossless",
    0xC5: "hierarchical",
    0xC6: "hierarchical",
    0xC7: "hierarchical",
    # libjpeg feeds an arithmetic decoder zeros past the end of its data and warns of nothing:
    # a damaged file could not be told from a whole one. No camera and no browser knows them.
    0xC9: "arithmetic-coded",
    0xCA: "arithmetic-coded",
    0xCB: "arithmetic-coded lossless",
    0xCD: "arithmetic-coded hierarchical",
    0xCE: "arithmetic-coded hierarchical",
    0xCF: "arithmetic-coded hierarchical",
}
_SAMPLINGS = frozenset(
    {
        ((1, 1), (1, 1)),
        ((1, 2), (1, 2)),
        ((2, 1), (2, 1)),
        ((1, 3), (1, 3)),
        ((3, 1), (3, 1)),
        ((2, 1), (1, 1)),
        ((2, 2), (1, 2)),
        ((1, 2), (1, 1)),
        ((2, 2), (2, 1)),
        ((2, 2), (1, 1)),
        ((4, 1), (1, 1)),
        ((1, 4), (1, 1)),
    }
)
"""Luma and chroma factors (horizontal, vertical) that TurboJPEG decodes: 4:4:4, 4:2:2, 4:4:0,
4:2:0, 4:1:1 and 4:4:1, each in the ways in which they are written."""

_SAVE_AGAIN = "Save it again as an ordinary 8-bit JPEG, or as a PNG."
_SEND_AGAIN = "Send the whole file again."
_MARKER = re.compile(rb"\xff++([^\x00\xff])")  # `++` gives nothing back: linear time
_NEXT_MARKER = re.compile(rb"\xff([^\x00\xff])")
# In coded data FF 00 is a byte of data, FF D0 to FF D7 a restart, and more FF are filling.
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_FLOOD = b"\xff" * 1024
"""More filling than any encoder writes. 10 MB of it would hold up the search for 0.13 s."""
_NEVER_SENT = -1


@dataclass(frozen=True)
class JpegStructure:
    """The first picture of a JPEG file; what follows its end (MPO, camera trailers) is ignored."""

    width: int
    height: int
    components: int
    """1 is grey, 3 is colour, 4 is CMYK or YCCK."""
    coded_bytes: int
    coefficient_bytes: int
    """What a decoder of a progressive file keeps until the last scan; 0 for others."""
    exif: bytes | None
    """The TIFF block of the first Exif segment, as it is: it may be broken."""
    essentials: tuple[bytes | memoryview, ...]
    """The parts that make the pixels. Joined they are a JPEG without metadata: whatever is
    wrong with a colour profile or an Exif block cannot disturb a decoder."""

    @property
    def sample_bytes(self) -> int:
        """What the samples take once they are decoded."""
        return self.width * self.height * self.components

    @property
    def codable_pixels(self) -> int:
        """No more pixels than these fit into the coded data: a block of 64 takes one bit."""
        return self.coded_bytes * 8 * 64


class _Segment(NamedTuple):
    marker: int
    start: int
    """Where its FF stands."""
    body: int
    """Behind the two length bytes."""
    body_end: int
    end: int
    """Behind the coded data that follow, if it is a SOS; else `body_end`."""


@dataclass
class _Frame:
    width: int
    height: int
    is_progressive: bool
    coefficients_each: float
    """Coefficients of all components, for each pixel: 3 for colour that is not subsampled."""
    component_ids: list[int]
    missing_bits: list[list[int]]
    """For each component and each of its 64 coefficients: how many low bits have not come yet."""


def walk(data: bytes) -> JpegStructure:
    """Read every segment of `data`, which starts with SOI, up to EOI.

    Raises UnreadableImage for anything that is cut, contradictory, or of a kind
    that we do not decode. Takes no copy of the coded data.
    """
    view = memoryview(data)
    parts: list[bytes | memoryview] = [view[:2]]
    frame: _Frame | None = None
    exif: bytes | None = None
    scans = coded_bytes = 0
    for segment in _segments(data):
        marker, start, body, body_end, end = segment
        if marker in _METADATA:
            if marker == _APP1 and exif is None and data.startswith(b"Exif\0\0", body, body_end):
                exif = data[body + 6 : body_end]
            if _decides_colours(data, segment):
                parts.append(view[start:end])
        elif marker in (_DHT, _DQT, _DRI):
            parts.append(view[start:end])
        elif marker in (*_SEQUENTIAL, _PROGRESSIVE):
            if frame is not None:
                _refuse("describes two frames", _SAVE_AGAIN)
            frame = _read_frame(marker, data[body:body_end])
            parts.append(view[start:end])
        elif marker == _SOS:
            scans += 1
            if scans > MAX_SCANS:
                _refuse(f"has more than {MAX_SCANS} scans", _SAVE_AGAIN)
            parts.append(_read_scan(frame, data[body:body_end]))
            parts.append(view[body_end:end])
            coded_bytes += end - body_end
        elif marker != _DNL:
            kind = _REFUSED_KINDS.get(marker)
            problem = f"is {kind}, which we do not decode" if kind else "has an unknown segment"
            _refuse(problem, _SAVE_AGAIN)
    if frame is None or not scans:
        _refuse("holds no picture", _SEND_AGAIN)
    if any(any(component) for component in frame.missing_bits):
        _refuse("stops before its last scan", _SEND_AGAIN)
    parts.append(b"\xff\xd9")
    return JpegStructure(
        width=frame.width,
        height=frame.height,
        components=len(frame.component_ids),
        coded_bytes=coded_bytes,
        coefficient_bytes=round(2 * frame.width * frame.height * frame.coefficients_each)
        if frame.is_progressive
        else 0,
        exif=exif,
        essentials=tuple(parts),
    )


def _refuse(problem: str, remedy: str) -> NoReturn:
    raise UnreadableImage(f"The JPEG {problem}. {remedy}")


def _segments(data: bytes) -> Iterator[_Segment]:
    """Every segment between SOI and EOI, in order; raises where EOI does not come."""
    position = 2
    follows_metadata = False
    for _ in range(MAX_SEGMENTS):
        # The length of a metadata segment that an editor has touched is often wrong. Nobody
        # misses what is in it: go on at the next marker, as libjpeg does.
        match = (_NEXT_MARKER.search if follows_metadata else _MARKER.match)(data, position)
        if match is None:
            if len(data) - position < 2:
                _refuse("is cut off", _SEND_AGAIN)
            _refuse(f"has no marker at byte {position}, where one must be", _SEND_AGAIN)
        marker, start = match[1][0], match.start()
        body = match.end() + 2
        follows_metadata = marker in _METADATA
        if marker == _EOI:
            return
        if marker == _SOI:
            _refuse("starts a second picture inside the first", _SEND_AGAIN)
        if marker in _STANDALONE:
            position = match.end()
            continue
        if body > len(data):
            _refuse("is cut off", _SEND_AGAIN)
        body_end = match.end() + int.from_bytes(data[match.end() : body])
        if not body <= body_end <= len(data):
            _refuse(f"is cut off inside the segment at byte {start}", _SEND_AGAIN)
        position = _end_of_scan(data, body_end) if marker == _SOS else body_end
        yield _Segment(marker, start, body, body_end, position)
    _refuse(f"has more than {MAX_SEGMENTS} segments", _SAVE_AGAIN)


def _end_of_scan(data: bytes, start: int) -> int:
    flood = data.find(_FLOOD, start)
    match = _MARKER_IN_SCAN.search(data, start, flood if flood >= 0 else len(data))
    if match is None and flood >= 0:
        _refuse("has nothing but filling inside its picture data", _SEND_AGAIN)
    if match is None:
        _refuse("is cut off inside its picture data", _SEND_AGAIN)
    return match.start()


def _decides_colours(data: bytes, segment: _Segment) -> bool:
    """Whether this metadata segment tells the decoder what the components mean."""
    length = segment.body_end - segment.body
    if segment.marker == _APP0:
        # Any other major version is a warning, which a strict decoder takes for damage.
        return length >= 14 and data.startswith(b"JFIF\0\1", segment.body)
    return segment.marker == _APP14 and length >= 12 and data.startswith(b"Adobe", segment.body)


def _read_frame(marker: int, body: bytes) -> _Frame:
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        _refuse("has a broken frame header", _SEND_AGAIN)
    precision, height, width, components = struct.unpack_from(">BHHB", body)
    if precision != 8:
        _refuse(f"has {precision} bits per sample, and we decode 8", _SAVE_AGAIN)
    if not height:
        _refuse("tells its height only behind the picture (DNL)", _SAVE_AGAIN)
    if not width:
        _refuse("has a width of 0", _SEND_AGAIN)
    if components not in (1, 3, 4):
        _refuse(f"has {components} components, neither grey, colour nor CMYK", _SAVE_AGAIN)
    factors = [(byte >> 4, byte & 15) for byte in body[7::3]]
    is_known = (factors[0], factors[1]) in _SAMPLINGS if components > 1 else True
    if components == 3:
        is_known = is_known and factors[1] == factors[2]
    if components == 4:  # K is sampled like the luma, as is everything in plain CMYK
        is_known = is_known and factors[1] == factors[2] and factors[0] == factors[3]
    if not is_known:
        _refuse("has a chroma subsampling that we do not decode", _SAVE_AGAIN)
    return _Frame(
        width=width,
        height=height,
        is_progressive=marker == _PROGRESSIVE,
        coefficients_each=sum(h * v for h, v in factors) / max(1, factors[0][0] * factors[0][1]),
        component_ids=list(body[6::3]),
        missing_bits=[[_NEVER_SENT] * 64 for _ in range(components)],
    )


def _read_scan(frame: _Frame | None, body: bytes) -> bytes:
    """Note in `frame` what the scan brings; returns the SOS segment for the decoder.

    Each bit of a coefficient may come once, from the high bits to the low ones:
    everything else is damage, or makes a decoder work for nothing.
    """
    if frame is None:
        _refuse("has picture data before its frame header", _SEND_AGAIN)
    if len(body) < 4 or len(body) != 4 + 2 * body[0] or not 1 <= body[0] <= 4:
        _refuse("has a broken scan header", _SEND_AGAIN)
    if frame.is_progressive:
        first, last, high, low = body[-3], body[-2], body[-1] >> 4, body[-1] & 15
        is_possible = last == 0 if first == 0 else first <= last < 64 and body[0] == 1
        if not is_possible or low > 13:
            _refuse("has a broken scan header", _SEND_AGAIN)
    else:
        # Some phones leave nonsense here. It means nothing in a sequential file, but a strict
        # decoder would take it for damage.
        body = body[:-3] + b"\x00\x3f\x00"
        first, last, high, low = 0, 63, 0, 0
    for component_id in body[1:-3:2]:
        if component_id not in frame.component_ids:
            _refuse("has a scan of an unknown component", _SEND_AGAIN)
        missing = frame.missing_bits[frame.component_ids.index(component_id)]
        before = missing[first]
        is_first = high == 0 and before == _NEVER_SENT
        is_next = 0 < high == before == low + 1
        is_in_order = first == 0 or missing[0] != _NEVER_SENT
        if missing[first : last + 1] != [before] * (last + 1 - first):
            _refuse("sends its scans out of order", _SEND_AGAIN)
        if not (is_first or is_next) or not is_in_order:
            _refuse("sends its scans out of order", _SEND_AGAIN)
        missing[first : last + 1] = [low] * (last + 1 - first)
    return b"\xff\xda" + struct.pack(">H", len(body) + 2) + body


def size_of(start: bytes) -> tuple[int, int] | None:
    """Width and height by the first frame header; None if these bytes end before it."""
    at = 2
    while match := _MARKER.match(start, at):
        marker, body = match[1][0], match.end()
        if marker in _STANDALONE:
            at = body
            continue
        if len(start) < body + 7:
            return None
        if marker in (*_SEQUENTIAL, _PROGRESSIVE):
            height, width = struct.unpack_from(">HH", start, body + 3)
            return width, height
        at = body + max(2, struct.unpack_from(">H", start, body)[0])
    return None
