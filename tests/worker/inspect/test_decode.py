"""Pictures are made here; Pillow and plain arithmetic say how they must look."""

import io
import struct
import tracemalloc
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from shared.errors import ImageOutOfBounds, NotAnImage, UnreadableImage
from shared.image_headers import read_structure
from shared.png_structure import walk
from worker.inspect import inflate
from worker.inspect.decode import decode

WIDTH, HEIGHT = 200, 160
EOI = b"\xff\xd9"


def scene(channels: int = 3, top: int = 255) -> NDArray[np.int64]:
    """(160, 200, channels): slopes with noise, the same every time, no symmetry."""
    rng = np.random.default_rng(7)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    slopes = np.stack([rows / HEIGHT, columns / WIDTH, (rows + columns) / (HEIGHT + WIDTH)])
    picture = np.concatenate([slopes, 1 - slopes[:1]])[:channels].transpose(1, 2, 0)
    return np.rint(top * (0.9 * picture + 0.1 * rng.random(picture.shape))).astype(np.int64)


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def rgb_picture() -> Image.Image:
    return Image.fromarray(scene().astype(np.uint8))


def jpeg(**options: object) -> bytes:
    return saved(rgb_picture(), "JPEG", **{"quality": 95, **options})


def by_pillow(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


def chunk(kind: bytes, payload: bytes = b"") -> bytes:
    checksum = zlib.crc32(kind + payload)
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", checksum)


def rows_of(samples: NDArray[np.int64], bit_depth: int) -> bytes:
    """Samples (H, W, channels) packed as PNG rows, none of them filtered."""
    height = len(samples)
    flat = samples.reshape(height, -1)
    if bit_depth == 16:
        packed = flat.astype(">u2").view(np.uint8).reshape(height, -1)
    else:
        bits = flat[..., None] >> np.arange(bit_depth - 1, -1, -1) & 1
        packed = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in packed)


def png(
    samples: NDArray[np.int64],
    *more: bytes,
    bit_depth: int,
    colour_type: int,
    compressed: bytes | None = None,
    is_interlaced: bool = False,
) -> bytes:
    height, width = samples.shape[:2]
    passes = [(0, 0, 1, 1)]
    if is_interlaced:  # Adam7: first row and column, and the steps between them
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)]
        passes += [(2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b"".join(rows_of(samples[y::dy, x::dx], bit_depth) for y, x, dy, dx in passes)
    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, is_interlaced)
    idat = zlib.compress(rows) if compressed is None else compressed
    chunks = [chunk(b"IHDR", header), *more, chunk(b"IDAT", idat), chunk(b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def on_white(colour: NDArray[np.float64], alpha: NDArray[np.float64]) -> NDArray[np.float64]:
    """Both in [0, 1]; what is seen, in [0, 255]."""
    return 255 * (colour * alpha + 1 - alpha)


def assert_looks_like(seen: NDArray[np.uint8], wanted: NDArray[np.float64], within: float) -> None:
    assert seen.dtype == np.uint8
    assert seen.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(seen - np.broadcast_to(wanted, seen.shape)).max() <= within


# --- whole files -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"subsampling": "4:4:4"},
        {"subsampling": "4:2:2"},
        {"progressive": True},
        {"restart_marker_blocks": 5},
        {"quality": 10, "optimize": True},
    ],
)
def test_a_jpeg_is_decoded_to_the_bit_as_pillow_does(options):
    data = jpeg(**options)

    assert np.array_equal(decode(data), by_pillow(data))


def test_a_grey_jpeg_has_three_equal_channels():
    data = saved(rgb_picture().convert("L"), "JPEG")

    assert np.array_equal(decode(data), by_pillow(data))


@pytest.mark.parametrize("transform", [0, 2], ids=["CMYK", "YCCK"])
def test_a_cmyk_jpeg_looks_as_in_a_viewer(transform):
    inks = Image.fromarray(scene(4).astype(np.uint8), "CMYK")
    data = bytearray(saved(inks, "JPEG", quality=95))
    data[data.index(b"Adobe") + 11] = transform

    assert_looks_like(decode(bytes(data)), by_pillow(bytes(data)).astype(float), within=1)


def test_printed_black_is_black_and_paper_is_white():
    inks = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    inks[:, : WIDTH // 2, 3] = 255  # all the black ink there is

    seen = decode(saved(Image.fromarray(inks, "CMYK"), "JPEG", quality=95))

    assert seen[:, : WIDTH // 2 - 8].max() <= 3
    assert seen[:, WIDTH // 2 + 8 :].min() >= 252


@pytest.mark.parametrize("is_interlaced", [False, True])
@pytest.mark.parametrize(
    ("colour_type", "channels", "bit_depth"),
    [(0, 1, 1), (0, 1, 2), (0, 1, 4), (0, 1, 8), (0, 1, 16), (2, 3, 8), (2, 3, 16)],
)
def test_every_opaque_png_is_scaled_to_the_nearest_of_256_levels(
    colour_type, channels, bit_depth, is_interlaced
):
    top = (1 << bit_depth) - 1
    samples = scene(channels, top)
    data = png(samples, bit_depth=bit_depth, colour_type=colour_type, is_interlaced=is_interlaced)

    assert_looks_like(decode(data), np.rint(samples / top * 255), within=0)


def test_all_65536_levels_of_a_16_bit_grey_are_rounded_not_cut_off():
    levels = np.arange(65536).reshape(256, 256, 1)

    seen = decode(png(levels, bit_depth=16, colour_type=0))

    assert np.array_equal(seen[..., 0], np.rint(levels[..., 0] / 257))


@pytest.mark.parametrize("bit_depth", [8, 16])
@pytest.mark.parametrize(("colour_type", "channels"), [(4, 2), (6, 4)])
def test_what_is_see_through_lies_on_white(colour_type, channels, bit_depth):
    top = (1 << bit_depth) - 1
    samples = scene(channels, top)
    samples[:20, ..., -1] = 0
    samples[20:40, ..., -1] = top
    data = png(samples, bit_depth=bit_depth, colour_type=colour_type)

    seen = decode(data)

    assert_looks_like(seen, on_white(samples[..., :-1] / top, samples[..., -1:] / top), within=0.51)
    assert (seen[:20] == 255).all()
    assert np.array_equal(
        seen[20:40], np.broadcast_to(np.rint(samples[20:40, ..., :-1] / top * 255), (20, WIDTH, 3))
    )


@pytest.mark.parametrize(
    ("colour_type", "bit_depth"), [(0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16)]
)
def test_a_colour_that_is_declared_see_through_is_white(colour_type, bit_depth):
    channels = 1 if colour_type == 0 else 3
    top = (1 << bit_depth) - 1
    samples = scene(channels, top)
    key = samples[80, 100]
    transparency = chunk(b"tRNS", key.astype(">u2").tobytes())

    seen = decode(png(samples, transparency, bit_depth=bit_depth, colour_type=colour_type))

    is_key = (samples == key).all(axis=2)
    assert is_key[80, 100]
    assert not is_key.all()
    assert (seen[is_key] == 255).all()
    wanted = np.broadcast_to(np.rint(samples / top * 255), seen.shape)
    assert np.array_equal(seen[~is_key], wanted[~is_key])


@pytest.mark.parametrize("bit_depth", [1, 2, 4, 8])
def test_a_palette_with_see_through_entries_lies_on_white(bit_depth):
    entries = min(1 << bit_depth, 40)
    rng = np.random.default_rng(3)
    palette = rng.integers(0, 256, (entries, 3), np.uint8)
    alpha = np.full(entries, 255)
    alpha[: entries // 2] = rng.integers(0, 256, entries // 2)
    samples = rng.integers(0, entries, (HEIGHT, WIDTH, 1))
    more = (
        chunk(b"PLTE", palette.tobytes()),
        chunk(b"tRNS", alpha[: entries // 2].astype(np.uint8).tobytes()),
    )

    seen = decode(png(samples, *more, bit_depth=bit_depth, colour_type=3))

    index = samples[..., 0]
    assert_looks_like(seen, on_white(palette[index] / 255, alpha[index, None] / 255), within=0.51)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_picture_is_turned_as_exif_says(kind, orientation):
    exif = Image.Exif()
    exif[0x010F] = "maker"  # a text in front of the orientation
    exif[0x0112] = orientation
    data = saved(rgb_picture(), kind, exif=exif)

    seen = decode(data)

    assert seen.shape == ((HEIGHT, WIDTH, 3) if orientation < 5 else (WIDTH, HEIGHT, 3))
    assert np.array_equal(seen, by_pillow(data))


def exif_block(
    entries: Sequence[tuple[int, int, int, bytes]], *, order: str = "<", directory: int = 8
) -> bytes:
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", directory)
    listed = b"".join(struct.pack(order + "HHI", *head) + value for *head, value in entries)
    return start + struct.pack(order + "H", len(entries)) + listed


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_of_exif_are_read(order):
    turned = exif_block([(0x0112, 3, 1, struct.pack(order + "HH", 3, 0))], order=order)

    seen = decode(with_exif(turned))

    assert np.array_equal(seen, by_pillow(jpeg())[::-1, ::-1])


def with_exif(block: bytes) -> bytes:
    payload = b"Exif\0\0" + block
    return b"\xff\xd8" + struct.pack(">HH", 0xFFE1, len(payload) + 2) + payload + jpeg()[2:]


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"II",
        b"II*\0",
        b"II*\0\x08\0\0\0",
        b"garbage garbage garbage",
        exif_block([], directory=0xFFFFFFF0),
        exif_block([], directory=0),
        exif_block([(0x0112, 3, 1, b"\x06\0\0\0")])[:-5],  # cut off inside the entry
        b"II*\0\x08\0\0\0\xff\xff" + bytes(60),  # 65 535 entries
        exif_block([(0x0112, 3, 1, b"\x09\0\0\0")]),  # there are 8 orientations
        exif_block([(0x0112, 3, 1, b"\0\0\0\0")]),
        exif_block([(0x0112, 2, 1, b"\x06\0\0\0")]),  # a text
        exif_block([(0x0112, 3, 2, b"\x06\0\x06\0")]),  # two orientations
    ],
)
def test_a_broken_exif_block_never_makes_a_sound_picture_unreadable(block):
    assert np.array_equal(decode(with_exif(block)), by_pillow(jpeg()))


# --- oddities of real cameras and editors ----------------------------------------------------


def test_zeros_between_picture_data_and_end_are_padding():
    data = jpeg()

    for length in (1, 8, 11, 300):
        padded = data[:-2] + bytes(length) + EOI
        assert np.array_equal(decode(padded), by_pillow(data)), length


def test_other_bytes_left_over_before_the_end_are_damage():
    with pytest.raises(UnreadableImage, match="are damaged"):
        decode(jpeg()[:-2] + b"\x35\x71\x11\x02" * 6 + EOI)


def test_metadata_that_a_strict_decoder_would_stumble_over_are_left_out():
    data = jpeg()
    jfif_2 = data.replace(b"JFIF\0\1", b"JFIF\0\2")
    wrong_profile = segment(0xE2, b"ICC_PROFILE\0\x05\x02" + b"x" * 50)
    wrong_length = segment(0xED, b"Photoshop 3.0\0") + b"left over"

    for odd in (jfif_2, data[:2] + wrong_profile + data[2:], data[:2] + wrong_length + data[2:]):
        assert odd != data
        assert np.array_equal(decode(odd), by_pillow(data))


def segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def test_nonsense_in_the_scan_header_of_a_phone_is_overlooked():
    data = bytearray(jpeg())
    band = data.index(b"\xff\xda") + 4 + 7
    assert data[band : band + 3] == b"\x00\x3f\x00"
    data[band : band + 3] = b"\x01\x00\x11"

    assert np.array_equal(decode(bytes(data)), by_pillow(jpeg()))


def test_bytes_behind_the_end_change_nothing():
    data = jpeg()
    assert np.array_equal(decode(data + data + b"trailer"), by_pillow(data))
    still = saved(rgb_picture(), "PNG")
    assert np.array_equal(decode(still + b"trailer"), by_pillow(still))


def test_of_an_animated_png_the_still_is_seen():
    second = Image.new("RGB", (WIDTH, HEIGHT), "red")
    data = saved(rgb_picture(), "PNG", save_all=True, append_images=[second])
    assert b"acTL" in data

    assert np.array_equal(decode(data), scene())


# --- damage ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 5}])
def test_a_jpeg_cut_off_at_any_kilobyte_is_refused_even_with_an_end_glued_on(options):
    whole = jpeg(**options)
    assert len(whole) > 12 * 1024

    for length in range(1024, len(whole), 1024):
        for cut in (whole[:length], whole[:length] + EOI):
            with pytest.raises(UnreadableImage):
                decode(cut)


def test_a_png_cut_off_at_any_kilobyte_is_refused_even_with_its_checksums_made_right():
    samples = scene()
    compressed = zlib.compress(rows_of(samples, 8))
    whole = png(samples, bit_depth=8, colour_type=2, compressed=compressed)
    assert np.array_equal(decode(whole), samples)
    assert len(whole) > 20_000

    for length in range(1024, len(compressed), 1024):
        with pytest.raises(UnreadableImage):
            decode(whole[:length])
        with pytest.raises(UnreadableImage, match="are damaged"):
            decode(png(samples, bit_depth=8, colour_type=2, compressed=compressed[:length]))


def test_gigabytes_behind_the_last_row_are_not_inflated():
    deflater = zlib.compressobj(9)
    rows = rows_of(scene(), 8)
    compressed = deflater.compress(rows)
    compressed += b"".join(deflater.compress(bytes(1 << 20)) for _ in range(2048))
    compressed += deflater.flush()
    data = png(scene(), bit_depth=8, colour_type=2, compressed=compressed)

    tracemalloc.start()
    handed_on = inflate.without_metadata(read_structure(data))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak_bytes < 16 << 20
    # Nothing else is there for libpng to inflate.
    (packed,) = walk(bytes(handed_on)).deflated()
    assert zlib.decompress(packed) == rows
    assert np.array_equal(decode(data), scene())


def test_the_largest_pictures_are_handed_on_as_they_came_and_nothing_behind_them(monkeypatch):
    monkeypatch.setattr(inflate, "_MOST_STORED", 90_000)
    rows = rows_of(scene(), 8)
    assert len(rows) > 90_000
    whole, more = zlib.compress(rows), zlib.compress(rows + bytes(1000))

    assert np.array_equal(decode(png(scene(), bit_depth=8, colour_type=2)), scene())
    for compressed, problem in [(whole[:-5], "are damaged"), (more, "go on behind")]:
        with pytest.raises(UnreadableImage, match=problem):
            decode(png(scene(), bit_depth=8, colour_type=2, compressed=compressed))


@pytest.mark.parametrize("level", [0, 1, 6, 9])
@pytest.mark.parametrize("chunk_bytes", [1000, 1 << 20])
def test_a_png_of_many_blocks_and_chunks_keeps_every_pixel(level, chunk_bytes):
    rng = np.random.default_rng(7)
    samples = rng.integers(0, 256, (300, 400, 3))
    samples[:200] //= 64
    compressed = zlib.compress(rows_of(samples, 8), level)
    parts = [compressed[at : at + chunk_bytes] for at in range(0, len(compressed), chunk_bytes)]
    *firsts, last = [chunk(b"IDAT", part) for part in parts]
    data = png(samples, *firsts, bit_depth=8, colour_type=2, compressed=parts[-1])

    assert last in data
    assert np.array_equal(decode(data), samples)


@pytest.mark.parametrize("kept", [slice(10_000), slice(65_535), slice(-1)])
def test_a_png_whose_data_end_within_the_picture_is_refused(kept):
    rows = rows_of(scene(), 8)
    assert len(rows) > 65_535

    with pytest.raises(UnreadableImage, match="are damaged"):
        decode(png(scene(), bit_depth=8, colour_type=2, compressed=zlib.compress(rows[kept])))


def test_a_png_whose_data_fail_their_own_sum_is_refused():
    samples = scene()
    compressed = zlib.compress(rows_of(samples, 8))
    wrong_sum = compressed[:-1] + bytes([compressed[-1] ^ 1])

    for broken in (wrong_sum, compressed[:-1], compressed[:-4]):
        with pytest.raises(UnreadableImage, match="are damaged"):
            decode(png(samples, bit_depth=8, colour_type=2, compressed=broken))


@pytest.mark.parametrize("start", [b"\x78\xbb", b"\x79\x9c", b"\x7f\x9c"])
def test_a_png_whose_data_do_not_begin_as_zlib_does_is_refused(start):
    samples = scene()
    compressed = start + zlib.compress(rows_of(samples, 8))[2:]

    with pytest.raises(UnreadableImage, match="are damaged"):
        decode(png(samples, bit_depth=8, colour_type=2, compressed=compressed))


@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 5}])
def test_a_hole_in_the_data_of_a_jpeg_is_noticed(options):
    whole = jpeg(**options)

    for start in range(4096, len(whole) - 4096, 4096):
        with pytest.raises(UnreadableImage):
            decode(whole[:start] + bytes(2048) + whole[start + 2048 :])


def test_the_message_says_what_is_wrong_and_what_to_do():
    whole = jpeg()

    with pytest.raises(UnreadableImage, match=r"premature end.*Send the whole file again\."):
        decode(whole[: len(whole) // 2] + EOI)


def test_the_door_holds_here_too():
    with pytest.raises(NotAnImage):
        decode(b"GIF89a" + bytes(100))
    with pytest.raises(ImageOutOfBounds):
        decode(saved(Image.new("RGB", (127, 127)), "PNG"))


def test_threads_do_not_disturb_each_other():
    files = [jpeg(quality=quality) for quality in range(60, 92)]
    files += [saved(rgb_picture(), "PNG"), jpeg()[:-999] + EOI]

    def attempt(data: bytes) -> bytes:
        try:
            return decode(data).tobytes()
        except UnreadableImage as error:
            return str(error).encode()

    alone = [attempt(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(attempt, files * 8))
    assert together == alone * 8
