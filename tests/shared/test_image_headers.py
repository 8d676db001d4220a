import io
import struct
import time
import tracemalloc
import zlib

import pytest
from PIL import Image

from shared.errors import ImageOutOfBounds, NotAnImage, UnreadableImage
from shared.image_headers import ImageHeader, read_header, sniff_header


def encoded(kind: str, size: tuple[int, int] = (200, 160), **options: object) -> bytes:
    file = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(file, kind, **options)
    return file.getvalue()


def empty_png(
    width: int, height: int, compressed: bytes, *, bit_depth: int = 1, colour_type: int = 0
) -> bytes:
    """One bit a pixel, if nothing else is said, of which only `compressed` is there."""

    def chunk(kind: bytes, payload: bytes = b"") -> bytes:
        checksum = zlib.crc32(kind + payload)
        return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", compressed), chunk(b"IEND")]
    )


def test_kind_and_size_come_from_the_content():
    assert read_header(encoded("JPEG")) == ImageHeader("image/jpeg", 200, 160)
    assert read_header(encoded("PNG")) == ImageHeader("image/png", 200, 160)


def test_the_size_is_that_of_the_stored_pixels_whatever_exif_says():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees

    assert read_header(encoded("JPEG", exif=exif)) == ImageHeader("image/jpeg", 200, 160)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        b"GIF89a" + bytes(200),
        b"%PDF-1.7" + bytes(200),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        encoded("WEBP"),
        encoded("BMP"),
        encoded("TIFF"),
        bytes(100_000),
    ],
    ids=["empty", "SOI only", "gif", "pdf", "svg", "webp", "bmp", "tiff", "zeros"],
)
def test_anything_else_is_not_an_image(data):
    with pytest.raises(NotAnImage, match=r"a JPEG (or|nor) a PNG"):
        read_header(data)


def test_a_png_that_went_through_a_text_channel_is_told_so():
    with pytest.raises(UnreadableImage, match="as text"):
        read_header(encoded("PNG").replace(b"\r\n", b"\n"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_shorter_side_must_reach_the_bound(kind):
    assert read_header(encoded(kind, (128, 128))).width == 128
    with pytest.raises(ImageOutOfBounds, match=r"127 x 300 pixels.*at least 128 x 128"):
        read_header(encoded(kind, (127, 300)))
    with pytest.raises(ImageOutOfBounds, match=r"300 x 127 pixels"):
        read_header(encoded(kind, (300, 127)))
    assert read_header(encoded(kind, (20, 10)), min_side=10).height == 10


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_bound_on_pixels_is_inclusive(kind):
    data = encoded(kind, (200, 160))

    assert read_header(data, max_pixels=32_000).width == 200
    with pytest.raises(ImageOutOfBounds, match=r"200 x 160 pixels, which is 32,000.*31,999"):
        read_header(data, max_pixels=31_999)


def test_16_bits_per_sample_count_double():
    compressed = zlib.compress(bytes(2_000_000))
    colour_with_alpha = empty_png(500, 400, compressed, bit_depth=16, colour_type=6)

    # 8 bytes for each of 200 000 pixels, where 3 are allowed for.
    assert read_header(colour_with_alpha, max_pixels=533_334).width == 500
    with pytest.raises(ImageOutOfBounds, match=r"1,600,000 bytes; .* 8-bit RGB.*1,599,999 bytes"):
        read_header(colour_with_alpha, max_pixels=533_333)


def test_grey_with_alpha_counts_as_the_colour_that_decoders_make_of_it():
    grey_with_alpha = empty_png(
        500, 400, zlib.compress(bytes(2_000_000)), bit_depth=16, colour_type=4
    )

    assert read_header(grey_with_alpha, max_pixels=533_334).width == 500
    with pytest.raises(ImageOutOfBounds, match="1,600,000 bytes"):
        read_header(grey_with_alpha, max_pixels=533_333)


@pytest.mark.parametrize(("subsampling", "bytes_each"), [("4:4:4", 3 + 6), ("4:2:0", 3 + 3)])
def test_of_a_progressive_jpeg_the_coefficients_count_too(subsampling, bytes_each):
    """Each takes two bytes until the last scan; of a sequential one nothing is kept."""
    file = io.BytesIO()
    picture = Image.new("RGB", (240, 160))
    picture.save(file, "JPEG", progressive=True, subsampling=subsampling)
    needed = 240 * 160 * bytes_each // 6

    assert read_header(file.getvalue(), max_pixels=max(needed, 240 * 160)).width == 240
    if bytes_each > 6:
        with pytest.raises(ImageOutOfBounds, match="progressive"):
            read_header(file.getvalue(), max_pixels=needed - 1)
        picture.save(file := io.BytesIO(), "JPEG", subsampling=subsampling)
        assert read_header(file.getvalue(), max_pixels=needed - 1).width == 240


def test_a_bomb_of_256_megapixels_is_refused_without_inflating_it():
    rows = zlib.compressobj(9)
    compressed = rows.compress(bytes(2001 * 16_000)) + rows.flush()
    data = empty_png(16_000, 16_000, compressed)
    assert len(data) < 40_000

    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(ImageOutOfBounds, match="256,000,000"):
        read_header(data)
    elapsed = time.process_time() - start
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert elapsed < 0.1
    assert peak_bytes < 100_000


def test_a_file_too_small_for_the_size_that_it_claims_is_refused():
    whole = zlib.compress(bytes(501 * 4000), 9)  # 4000 x 4000 pixels

    assert read_header(empty_png(4000, 4000, whole)).width == 4000
    with pytest.raises(UnreadableImage, match="too few for 6500 x 6500 pixels"):
        read_header(empty_png(6500, 6500, whole))

    jpeg = encoded("JPEG")
    claim = jpeg.replace(struct.pack(">HH", 160, 200), struct.pack(">HH", 6500, 6500), 1)
    with pytest.raises(UnreadableImage, match="too few for 6500 x 6500 pixels"):
        read_header(claim)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_file_cut_off_at_any_kilobyte_is_refused(kind):
    whole = encoded(kind, (400, 300))

    for length in range(1024, len(whole), 1024):
        with pytest.raises(UnreadableImage, match="cut off"):
            read_header(whole[:length])


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_start_alone_says_kind_and_size(kind):
    data = encoded(kind, (300, 200))
    header = sniff_header(data[: len(data) // 2])
    assert (header.media_type, header.width, header.height) == (
        f"image/{kind.lower()}",
        300,
        200,
    )
    assert header == read_header(data)


def test_a_start_that_does_not_say_is_refused():
    data = encoded("JPEG", (300, 200))
    for start in (data[:2], data[:4], data[:20], b"", b"GIF89a", encoded("PNG", (300, 200))[:20]):
        with pytest.raises((NotAnImage, UnreadableImage)):
            sniff_header(start)
    with pytest.raises(ImageOutOfBounds):
        sniff_header(encoded("PNG", (300, 100)))
    with pytest.raises(ImageOutOfBounds):
        sniff_header(data, max_pixels=50_000)


def test_a_start_of_nothing_but_comments_costs_no_time():
    sniffed = b"\xff\xd8" + b"\xff\xfe\x00\x02" * 60_000
    with pytest.raises(UnreadableImage):
        sniff_header(sniffed)
