"""JPEG files made here: by Pillow where they are sound, byte by byte where they are not."""

import contextlib
import io
import struct
import time
import tracemalloc
from collections.abc import Sequence

import pytest
from PIL import Image

from shared.errors import UnreadableImage
from shared.jpeg_structure import MAX_SCANS, MAX_SEGMENTS, walk

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
COLOUR_420 = ((2, 2), (1, 1), (1, 1))
TEN_MB = 10 * 1024 * 1024


def segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def frame(
    samplings: Sequence[tuple[int, int]] = ((1, 1),),
    *,
    marker: int = 0xC0,
    precision: int = 8,
    width: int = 200,
    height: int = 160,
) -> bytes:
    components = b"".join(
        bytes([number, h << 4 | v, 0]) for number, (h, v) in enumerate(samplings, start=1)
    )
    return segment(
        marker,
        struct.pack(">BHHB", precision, height, width, len(samplings)) + components,
    )


def scan(
    components: Sequence[int] = (1,),
    *,
    band: tuple[int, int] = (0, 63),
    high: int = 0,
    low: int = 0,
    coded: bytes = b"\x00" * 100,
) -> bytes:
    header = bytes([len(components)]) + b"".join(bytes([number, 0]) for number in components)
    return segment(0xDA, header + bytes([*band, high << 4 | low])) + coded


def grey(*middle: bytes) -> bytes:
    return SOI + frame() + b"".join(middle) + scan() + EOI


def progressive(*scans: bytes, samplings: Sequence[tuple[int, int]] = ((1, 1),)) -> bytes:
    return SOI + frame(samplings, marker=0xC2) + b"".join(scans) + EOI


def by_pillow(mode: str = "RGB", **options: object) -> bytes:
    picture = Image.effect_noise((200, 160), 60).convert(mode)
    file = io.BytesIO()
    picture.save(file, "JPEG", **options)
    return file.getvalue()


def problem_of(data: bytes) -> str:
    with pytest.raises(UnreadableImage) as caught:
        walk(data)
    return str(caught.value)


@pytest.mark.parametrize(
    ("mode", "components", "options"),
    [
        ("L", 1, {}),
        ("RGB", 3, {}),
        ("RGB", 3, {"subsampling": "4:2:2"}),
        ("RGB", 3, {"progressive": True}),
        ("RGB", 3, {"restart_marker_blocks": 3}),
        ("RGB", 3, {"optimize": True, "icc_profile": b"profile" * 30_000}),
        ("CMYK", 4, {"progressive": True}),
    ],
)
def test_what_pillow_writes_is_whole(mode, components, options):
    structure = walk(by_pillow(mode, **options))

    assert (structure.width, structure.height) == (200, 160)
    assert structure.components == components


@pytest.mark.parametrize("is_progressive", [False, True])
def test_a_file_cut_off_anywhere_is_refused(is_progressive):
    whole = by_pillow(quality=95, progressive=is_progressive)

    for length in range(3, len(whole), 97):
        assert "Send the whole file again." in problem_of(whole[:length]), length


def test_essentials_are_the_same_picture_without_its_metadata():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = by_pillow(exif=exif, comment=b"made in a test", icc_profile=b"profile" * 30_000)

    bare = b"".join(walk(data).essentials)

    assert b"Exif" not in bare
    assert b"profile" not in bare
    assert b"made in a test" not in bare
    with Image.open(io.BytesIO(bare)) as one, Image.open(io.BytesIO(data)) as other:
        assert one.tobytes() == other.tobytes()


def test_the_exif_block_is_handed_out_from_its_byte_order_on():
    block = b"MM\0*\0\0\0\x08"

    assert walk(grey(segment(0xE1, b"Exif\0\0" + block))).exif == block
    assert walk(grey()).exif is None


def test_what_follows_the_end_of_the_first_picture_is_ignored():
    first = by_pillow()
    second = SOI + frame(width=4000, height=3000) + scan() + EOI

    assert (walk(first + second).width, walk(first + second).height) == (200, 160)
    assert walk(first + b"\x00" * 4 + b"camera trailer").width == 200


def test_filling_bytes_before_a_marker_are_skipped():
    assert walk(grey(b"\xff" * 1000 + segment(0xFE, b"note"), b"\xff" * 3)).width == 200


def test_stuffed_bytes_and_restarts_belong_to_the_picture_data():
    coded = b"a\xff\x00b\xff\xd0c\xff\xd7\xff\xff\x00d" * 9

    assert walk(SOI + frame() + scan(coded=coded) + EOI).coded_bytes == len(coded)


def test_a_wrong_length_of_a_metadata_segment_costs_only_the_metadata():
    too_short = segment(0xED, b"Photoshop 3.0\0") + b"left over"

    assert walk(grey(too_short)).width == 200


def test_bytes_behind_a_table_that_belong_to_nothing_are_refused():
    tables = segment(0xDB, b"\0" + b"\1" * 64)

    assert "has no marker" in problem_of(SOI + tables + b"left over" + frame() + scan() + EOI)


def test_a_segment_that_overruns_the_file_is_refused():
    # It says 65 535 bytes and has 4.
    assert "cut off inside the segment at byte 2" in problem_of(SOI + b"\xff\xe1\xff\xffExif")


def test_a_segment_shorter_than_its_own_length_is_refused():
    assert "cut off inside the segment" in problem_of(SOI + b"\xff\xfe\x00\x01" + frame())


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (SOI + EOI, "holds no picture"),
        (SOI + segment(0xDB, b"\0" + b"\1" * 64) + EOI, "holds no picture"),
        (SOI + frame() + EOI, "holds no picture"),
        (SOI + scan() + frame() + EOI, "before its frame header"),
        (SOI + SOI + frame() + scan() + EOI, "second picture inside the first"),
        (SOI + frame() + frame() + scan() + EOI, "two frames"),
        (SOI + frame(height=0) + scan() + EOI, "DNL"),
        (SOI + frame(width=0) + scan() + EOI, "width of 0"),
        (SOI + frame(precision=12, marker=0xC1) + scan() + EOI, "12 bits"),
        (SOI + frame(((1, 1), (1, 1))) + scan() + EOI, "2 components"),
        (SOI + frame(((3, 1), (2, 1), (1, 1))) + scan((1, 2, 3)) + EOI, "subsampling"),
        (SOI + frame(marker=0xC3) + scan() + EOI, "is lossless"),
        (SOI + frame(marker=0xC5) + scan() + EOI, "is hierarchical"),
        (SOI + frame(marker=0xC9) + scan() + EOI, "is arithmetic-coded"),
        (SOI + frame(marker=0xCA) + scan() + EOI, "is arithmetic-coded"),
        (SOI + segment(0xC0, b"\x08\0\xa0\0\xc8\x03") + scan() + EOI, "broken frame header"),
        (SOI + frame() + scan((9,)) + EOI, "unknown component"),
        (SOI + frame() + segment(0xDA, b"\x01\x01") + EOI, "broken scan header"),
        (grey(segment(0xF0, b"?")), "unknown segment"),
    ],
)
def test_a_file_that_contradicts_itself_or_is_of_another_kind_is_refused(data, problem):
    message = problem_of(data)

    assert problem in message
    assert message.endswith(("Send the whole file again.", "or as a PNG."))


def test_a_colour_file_that_lacks_the_scan_of_a_component_is_refused():
    header = SOI + frame(COLOUR_420)

    assert walk(header + scan((1,)) + scan((2,)) + scan((3,)) + EOI).components == 3
    assert "before its last scan" in problem_of(header + scan((1,)) + scan((2,)) + EOI)


def test_a_progressive_file_that_ends_after_its_coarse_scans_is_refused():
    coarse = scan(band=(0, 0), low=1)
    details = scan(band=(1, 63), low=1)
    finest = (scan(band=(0, 0), high=1, low=0), scan(band=(1, 63), high=1, low=0))

    assert walk(progressive(coarse, details, *finest)).width == 200
    for scans in ((coarse,), (coarse, details), (coarse, details, finest[0])):
        assert "stops before its last scan" in problem_of(progressive(*scans))


@pytest.mark.parametrize(
    "scans",
    [
        (scan(band=(1, 63)), scan(band=(0, 0))),  # details before the coarse picture
        (scan(band=(0, 0)), scan(band=(0, 0))),  # the same again
        (scan(band=(0, 0)), scan(band=(1, 5)), scan(band=(4, 63))),  # 4 and 5 twice
        (scan(band=(0, 0), low=3), scan(band=(0, 0), high=3, low=1)),  # skips a bit
        (scan(band=(0, 0)), scan(band=(1, 63), high=1, low=0)),  # refines what never came
    ],
)
def test_scans_that_repeat_or_skip_bits_are_refused(scans):
    assert "out of order" in problem_of(progressive(*scans))


def test_a_sequential_file_may_hold_nonsense_where_only_progressive_ones_hold_a_band():
    data = SOI + frame() + scan(band=(17, 99), high=5, low=2) + EOI

    assert scan(band=(0, 63)) in b"".join(walk(data).essentials)


def test_500_scans_are_refused_before_anything_is_decoded():
    scans = [scan(band=(0, 0))]
    scans += [
        scan(band=(k, k), low=low, high=high)
        for k in range(1, 64)
        for low, high in ((7, 0), *((bit, bit + 1) for bit in range(6, -1, -1)))
    ]
    data = progressive(*scans[:500])

    start = time.process_time()
    assert f"more than {MAX_SCANS} scans" in problem_of(data)
    assert time.process_time() - start < 0.1


def test_the_longest_script_that_libjpeg_writes_stays_below_the_bound_on_scans():
    # jpeg_simple_progression for four components: 2 for DC, 4 for AC of each.
    structure = walk(by_pillow("CMYK", progressive=True))

    headers = [part for part in structure.essentials if part[:2] == b"\xff\xda"]
    assert len(headers) == 18
    assert len(headers) <= MAX_SCANS


def test_a_flood_of_empty_segments_is_refused():
    empty = b"\xff\xfe\x00\x02"

    assert walk(grey(empty * (MAX_SEGMENTS - 10))).width == 200
    assert "segments" in problem_of(grey(empty * (TEN_MB // 4)))
    assert "segments" in problem_of(grey(b"\xff\xd0" * (TEN_MB // 2)))


@pytest.mark.parametrize(
    "coded",
    [
        b"\xff\x00" * (TEN_MB // 2),
        b"".join(bytes([0xFF, 0xD0 + n]) for n in range(8)) * (TEN_MB // 16),
        b"\xff\xff\x00" * (TEN_MB // 3),
        b"\x00" * TEN_MB,
    ],
    ids=["stuffed", "restarts", "filled and stuffed", "zeros"],
)
def test_ten_megabytes_of_the_worst_data_are_scanned_quickly_and_without_a_copy(coded):
    data = SOI + frame() + scan(coded=coded) + EOI

    tracemalloc.start()
    start = time.process_time()
    structure = walk(data)
    elapsed = time.process_time() - start
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert structure.width == 200
    assert elapsed < 0.5  # 0.1 s on an idle machine
    assert peak_bytes < 100_000


def test_a_flood_of_filling_in_the_picture_data_is_refused_and_behind_the_end_ignored():
    flood = b"\xff" * TEN_MB

    assert "filling" in problem_of(SOI + frame() + scan(coded=b"\x00" + flood) + EOI)
    assert walk(SOI + frame() + scan(coded=b"\x00" + b"\xff" * 1000) + EOI + flood).width == 200


def test_filling_that_never_ends_in_a_marker_does_not_cost_quadratic_time():
    start = time.process_time()
    problem_of(SOI + segment(0xFE, b"note") + (b"\xff" * 999 + b"\x00") * (TEN_MB // 1000))
    problem_of(SOI + b"\xff" * TEN_MB)
    assert time.process_time() - start < 1


def test_every_marker_is_understood_or_refused_but_never_a_crash():
    for marker in range(256):
        with contextlib.suppress(UnreadableImage):
            walk(SOI + segment(marker, b"x" * 20) + frame() + scan() + EOI)
