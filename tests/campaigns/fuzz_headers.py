"""Coverage-guided fuzzing of the door for pictures: what reads hostile bytes before any decoder.

    .venv/bin/pip install atheris
    .venv/bin/python tests/campaigns/fuzz_headers.py --seconds 3600

Mutations of small pictures of many kinds; checksums are mended in half of them, so that they get
past the first chunk. Only our deliberate errors may come out, within a second of the processor, and
no input may make the process allocate more than 64 MB. libFuzzer stops at the first that does and
writes it to a file; otherwise it says how many it ran and the exit code is 0.
"""

import argparse
import contextlib
import io
import resource
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import atheris
import numpy as np
from PIL import Image

with atheris.instrument_imports():
    from shared import jpeg_structure, png_structure  # noqa: F401 - to be watched
    from shared.image_headers import read_header, sniff_header

from shared.errors import Rejected

_MOST_BYTES = 64 << 20
_MOST_SECONDS = 1.0
"""Of the processor: beside other work any input may take a second by the clock."""
_PAGE = resource.getpagesize()
_NO_LIMIT = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def seeds() -> Iterator[bytes]:
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 255, (5, 5, 3)), np.ones((30, 30, 1))).astype(np.uint8)
    colour = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    for picture, kind, options in (
        (colour, "PNG", {}),
        (colour.convert("L"), "PNG", {}),
        (colour.convert("P"), "PNG", {"transparency": 0}),
        (colour.convert("RGBA"), "PNG", {"dpi": (300, 300)}),
        (Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "PNG", {}),
        (colour.convert("1"), "PNG", {}),
        (colour, "JPEG", {}),
        (colour, "JPEG", {"progressive": True}),
        (colour, "JPEG", {"subsampling": 2, "restart_marker_rows": 1}),
        (colour, "JPEG", {"exif": exif, "icc_profile": bytes(300), "comment": b"part"}),
        (colour.convert("L"), "JPEG", {"quality": 5}),
        (colour.convert("CMYK"), "JPEG", {}),
    ):
        file = io.BytesIO()
        picture.save(file, kind, **options)
        yield file.getvalue()


def one_input(data: bytes) -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE
    resource.setrlimit(resource.RLIMIT_AS, (size + _MOST_BYTES, resource.RLIM_INFINITY))
    started = time.process_time()
    try:
        for read in (read_header, sniff_header):
            with contextlib.suppress(Rejected):
                read(data, min_side=1)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, _NO_LIMIT)
    if (took := time.process_time() - started) > _MOST_SECONDS:
        raise AssertionError(f"it took {took:.1f} s")


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    mutated = atheris.Mutate(data, max_size)
    return _with_checksums(mutated) if seed % 2 else mutated


def _with_checksums(data: bytes) -> bytes:
    """The same PNG with right checksums, as far as its chunks can be followed."""
    if not data.startswith(png_structure.SIGNATURE):
        return data
    mended, at = bytearray(data), len(png_structure.SIGNATURE)
    while at + 12 <= len(mended):
        (length,) = struct.unpack_from(">I", mended, at)
        end = at + 8 + length
        if end + 4 > len(mended):
            break
        struct.pack_into(">I", mended, end, zlib.crc32(mended[at + 4 : end]))
        at = end + 4
    return bytes(mended)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=3600)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds()):
            (Path(corpus) / f"{number}").write_bytes(seed)
        atheris.Setup(
            [
                *(sys.argv[0], corpus),
                *("-max_len=65536", "-timeout=60", "-print_final_stats=1"),
                f"-max_total_time={arguments.seconds}",
            ],
            one_input,
            custom_mutator=mutate,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
