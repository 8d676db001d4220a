"""PNG files made here: by Pillow where they are sound, chunk by chunk where they are not."""

import io
import struct
import time
import tracemalloc
import zlib

import pytest
from PIL import Image, PngImagePlugin

from shared.errors import UnreadableImage
from shared.png_structure import MAX_CHUNKS, SIGNATURE, PngStructure, walk

TEN_MB = 10 * 1024 * 1024


def chunk(kind: bytes, payload: bytes = b"") -> bytes:
    checksum = zlib.crc32(kind + payload)
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", checksum)


def header(
    width: int = 200, height: int = 160, bit_depth: int = 8, colour_type: int = 0, *rest: int
) -> bytes:
    packing = rest or (0, 0, 0)
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, *packing))


IDAT = chunk(b"IDAT", zlib.compress(b"\0" * 201 * 160))
IEND = chunk(b"IEND")


def png(*chunks: bytes) -> bytes:
    return SIGNATURE + b"".join(chunks)


def grey(*middle: bytes) -> bytes:
    return png(header(), *middle, IDAT, IEND)


def by_pillow(mode: str = "RGB", **options: object) -> bytes:
    picture = Image.effect_noise((200, 160), 60).convert(mode)
    file = io.BytesIO()
    picture.save(file, "PNG", **options)
    return file.getvalue()


def bare(structure: PngStructure) -> bytes:
    """The parts of the picture that make pixels, as a file."""
    return structure.beginning + bytes(structure.coded_chunks) + IEND


def problem_of(data: bytes) -> str:
    with pytest.raises(UnreadableImage) as caught:
        walk(data)
    return str(caught.value)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "P", "RGB", "RGBA"])
def test_what_pillow_writes_is_whole(mode):
    picture = Image.new(mode, (200, 160))
    file = io.BytesIO()
    picture.save(file, "PNG")

    structure = walk(file.getvalue())

    assert (structure.width, structure.height) == (200, 160)


def test_a_file_cut_off_anywhere_is_refused():
    whole = by_pillow()

    for length in range(len(SIGNATURE), len(whole), 97):
        assert "is cut off" in problem_of(whole[:length]) or length < 33, length
    assert "is cut off" in problem_of(whole[:-1])


def test_beginning_and_picture_data_are_the_same_picture_without_its_metadata():
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Comment", "made in a test" * 1000, zip=True)
    data = by_pillow("P", pnginfo=texts, icc_profile=b"profile" * 30_000, transparency=3)

    less = bare(walk(data))

    assert len(less) < len(data)
    with Image.open(io.BytesIO(less)) as one, Image.open(io.BytesIO(data)) as other:
        one.load()
        assert one.info == {"transparency": 3}
        assert one.convert("RGBA").tobytes() == other.convert("RGBA").tobytes()


def test_a_57_byte_file_whose_chunk_claims_two_gigabytes_is_refused_at_once():
    data = png(header(), b"\x7f\xff\xff\xfftEXt", b"x" * 16)
    assert len(data) == 57

    tracemalloc.start()
    assert "cut off inside its chunk tEXt" in problem_of(data)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 100_000


def test_compressed_text_is_stepped_over_and_never_reaches_a_decoder():
    bomb = zlib.compress(b"\0" * 50_000_000, 9)  # 50 kB
    texts = [chunk(b"zTXt", b"note%d\0\0" % number + bomb) for number in range(100)]

    data = grey(*texts, chunk(b"iCCP", b"profile\0\0" + bomb))

    tracemalloc.start()
    structure = walk(data)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert bare(structure) == grey()
    assert peak_bytes < 100_000


def test_of_an_animation_the_still_is_taken():
    control = chunk(b"acTL", struct.pack(">II", 2, 0))
    frame_control = chunk(b"fcTL", bytes(26))
    second = chunk(b"fdAT", struct.pack(">I", 1) + zlib.compress(b"\xff" * 201 * 160))

    structure = walk(png(header(), control, frame_control, IDAT, frame_control, second, IEND))

    assert bare(structure) == grey()


def test_bytes_behind_the_end_are_ignored():
    assert walk(grey() + b"camera trailer" + grey()).width == 200


def test_a_wrong_checksum_counts_where_pixels_depend_on_it_and_only_there():
    def damaged(good: bytes) -> bytes:
        return good[:-1] + bytes([good[-1] ^ 1])

    exif = chunk(b"eXIf", b"MM\0*\0\0\0\x08")
    assert walk(grey(exif)).exif == b"MM\0*\0\0\0\x08"
    assert walk(grey(damaged(exif))).exif is None
    assert walk(grey(damaged(chunk(b"tEXt", b"a\0b")))).width == 200

    assert "checksum of its chunk IHDR" in problem_of(png(damaged(header()), IDAT, IEND))
    assert "checksum of its chunk IDAT" in problem_of(png(header(), damaged(IDAT), IEND))
    assert "checksum of its chunk IEND" in problem_of(png(header(), IDAT, damaged(IEND)))
    transparency = chunk(b"tRNS", b"\0\7")
    assert "checksum of its transparency" in problem_of(grey(damaged(transparency)))


def test_a_see_through_grey_is_told_apart_from_the_parts():
    structure = walk(grey(chunk(b"tRNS", b"\0\7")))

    assert structure.transparent_grey == 7
    assert bare(structure) == grey()


PALETTE = chunk(b"PLTE", bytes(6))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (png(), "is cut off"),
        (png(IDAT, IEND), "does not start with its header"),
        (png(chunk(b"CgBI", bytes(4)), header(), IDAT, IEND), "does not start with its header"),
        (png(chunk(b"IHDR", bytes(12)), IDAT, IEND), "does not start with its header"),
        (png(header(), IEND), "holds no picture"),
        (png(header(0, 160), IDAT, IEND), "is 0 x 160 pixels"),
        (png(header(200, 0), IDAT, IEND), "is 200 x 0 pixels"),
        (png(header(200, 160, 8, 5), IDAT, IEND), "colour type 5 with 8 bits"),
        (png(header(200, 160, 4, 2), IDAT, IEND), "colour type 2 with 4 bits"),
        (png(header(200, 160, 16, 3), IDAT, IEND), "colour type 3 with 16 bits"),
        (png(header(200, 160, 8, 0, 1, 0, 0), IDAT, IEND), "packed in a way"),
        (png(header(200, 160, 8, 0, 0, 1, 0), IDAT, IEND), "packed in a way"),
        (png(header(200, 160, 8, 0, 0, 0, 2), IDAT, IEND), "packed in a way"),
        (png(header(), header(), IDAT, IEND), "more than one IHDR"),
        (png(header(), PALETTE, PALETTE, IDAT, IEND), "more than one PLTE"),
        (png(header(), chunk(b"PLTE", bytes(4)), IDAT, IEND), "broken palette"),
        (png(header(), chunk(b"PLTE", bytes(257 * 3)), IDAT, IEND), "broken palette"),
        (png(header(200, 160, 8, 3), IDAT, IEND), "lacks its palette"),
        (png(header(200, 160, 8, 3), IDAT, PALETTE, IEND), "lacks its palette"),
        (png(header(), IDAT, chunk(b"tEXt", b"a\0b"), IDAT, IEND), "torn apart"),
        (png(header(), chunk(b"NEWS"), IDAT, IEND), "needs NEWS"),
        (png(header(), b"\0\0\0\1te\x00t", b"xxxxx", IDAT, IEND), "is damaged at byte 33"),
        (png(header(), IDAT, chunk(b"IEND", b"x")), "broken end"),
        (png(header(), IDAT), "is cut off"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(data, problem):
    message = problem_of(data)

    assert problem in message
    assert message.endswith(("Send the whole file again.", "or as a JPEG."))


def test_no_more_pixels_than_deflate_can_pack_are_believed():
    # 1032 bytes from each byte, and 8 pixels in each of them at one bit.
    one_bit = walk(png(header(200, 160, 1, 0), IDAT, IEND))
    colour = walk(png(header(200, 160, 8, 2), IDAT, IEND))

    assert one_bit.codable_pixels == one_bit.coded_bytes * 1032 * 8
    assert colour.codable_pixels == colour.coded_bytes * 1032 // 3
    # All zeros, as small as deflate makes them, at one byte a pixel.
    assert walk(grey()).codable_pixels >= 200 * 160


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "P"])
def test_how_much_the_picture_data_become_is_known(mode):
    structure = walk(by_pillow(mode))

    assert structure.filtered_bytes == len(zlib.decompress(b"".join(structure.deflated())))


@pytest.mark.parametrize(
    ("width", "height", "passes"),
    # Adam7 as the specification draws it: columns and rows of each pass.
    [
        (8, 8, [(1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4)]),
        (1, 1, [(1, 1)]),
        (4, 1, [(1, 1), (1, 1), (2, 1)]),
        (5, 5, [(1, 1), (1, 1), (2, 1), (1, 2), (3, 1), (2, 3), (5, 2)]),
    ],
)
def test_of_an_interlaced_picture_every_pass_counts(width, height, passes):
    start = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    structure = walk(png(chunk(b"IHDR", start), IDAT, IEND))

    assert structure.filtered_bytes == sum(rows * (1 + 3 * columns) for columns, rows in passes)


def test_a_flood_of_empty_chunks_is_refused_quickly():
    start = time.perf_counter()
    assert f"more than {MAX_CHUNKS} chunks" in problem_of(grey(chunk(b"teXt") * (TEN_MB // 12)))
    assert f"more than {MAX_CHUNKS} chunks" in problem_of(
        png(header(), chunk(b"IDAT") * (TEN_MB // 12))
    )
    assert time.perf_counter() - start < 1  # 0.1 s on an idle machine


def test_ten_megabytes_of_picture_are_walked_quickly_and_without_a_copy():
    data = png(header(), *[chunk(b"IDAT", bytes(8192))] * (TEN_MB // 8204), IEND)

    tracemalloc.start()
    start = time.perf_counter()
    walk(data)
    elapsed = time.perf_counter() - start
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert elapsed < 0.5  # 0.01 s on an idle machine
    assert peak_bytes < 100_000
