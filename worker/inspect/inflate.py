"""The picture data of a PNG, inflated by ISA-L and packed anew without compression.

libpng spends most of its time in zlib, which is slower at it. As much is inflated as the picture
takes and no more, so gigabytes behind the last row cost nothing.
"""

import struct
from collections.abc import Iterator

from isal import igzip_lib, isal_zlib

from shared.errors import UnreadableImage
from shared.png_structure import PngStructure

_MOST_IN_BLOCK = 65_535
"""Bytes of a stored block (RFC 1951, 3.2.4)."""
_MOST_STORED = 32 << 20
"""Bytes. OpenCV holds all samples twice while it decodes: a third time, the largest pictures would
need 405 MB. Those with a palette become three and four times as much."""
_BLOCK_HEADER = struct.Struct("<?HH")
_ZLIB_HEADER = b"\x78\x01"
_IEND = b"\0\0\0\0IEND" + isal_zlib.crc32(b"IEND").to_bytes(4)


def without_metadata(structure: PngStructure) -> bytes | bytearray:
    """The same picture as a PNG of what makes its pixels, as fast to decode as it can be.

    Raises UnreadableImage for data that cannot be inflated, end too early or fail their own sum.
    What comes behind the last row is no part of the picture, and refused in the largest ones.
    """
    if structure.filtered_bytes <= _MOST_STORED:
        return _stored(structure)
    for _ in _inflate(structure, may_go_on=False):
        pass
    return b"".join((structure.beginning, structure.coded_chunks, _IEND))


def _stored(structure: PngStructure) -> bytearray:
    size = structure.filtered_bytes
    blocks = -(-size // _MOST_IN_BLOCK)
    length = len(_ZLIB_HEADER) + blocks * _BLOCK_HEADER.size + size + 4
    body = len(structure.beginning) + 8
    # Made at once and in full, so that there is no other copy.
    png = bytearray(body + length + 4 + len(_IEND))
    png[:body] = structure.beginning + struct.pack(">I4s", length, b"IDAT")
    png[body : (at := body + len(_ZLIB_HEADER))] = _ZLIB_HEADER
    adler = 1
    for number, block in enumerate(_inflate(structure, may_go_on=True), start=1):
        _BLOCK_HEADER.pack_into(png, at, number == blocks, len(block), len(block) ^ 0xFFFF)
        at += _BLOCK_HEADER.size
        png[at : (at := at + len(block))] = block
        adler = isal_zlib.adler32(block, adler)
    struct.pack_into(">I", png, at, adler)
    with memoryview(png) as whole, whole[body - 4 : at + 4] as summed:
        struct.pack_into(">I", png, at + 4, isal_zlib.crc32(summed))
    png[at + 8 :] = _IEND
    return png


def _inflate(structure: PngStructure, *, may_go_on: bool) -> Iterator[bytes]:
    """The rows of the picture; each piece but the last is as large as a block can be."""
    inflater = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_ZLIB)
    waiting = b"".join(structure.deflated())
    missing = structure.filtered_bytes
    try:
        while missing and not inflater.eof:
            wanted = min(missing, _MOST_IN_BLOCK)
            if len(block := inflater.decompress(waiting, wanted)) < wanted:
                break
            waiting = b""
            missing -= wanted
            yield block
        # The sum that stands at the end is compared when it is reached.
        behind = b"" if missing or inflater.eof else inflater.decompress(b"", 1)
    except igzip_lib.IsalError as error:  # type: ignore[misc] # the stub takes it for an instance
        raise UnreadableImage(_damaged(str(error))) from error
    if missing or not (behind or inflater.eof):
        raise UnreadableImage(_damaged("they end too early"))
    if behind and not may_go_on:
        raise UnreadableImage(
            "The picture data of the PNG go on behind its last row. Save it again."
        )


def _damaged(how: str) -> str:
    return f"The picture data of the PNG are damaged ({how}). Send the whole file again."
