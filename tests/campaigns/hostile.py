"""Files that nobody should send, through the running service: its answers, and what they cost.

    .venv/bin/python tests/campaigns/hostile.py [FOLDER …]

Bombs and truncated files are made here; folders are sent beside them. Every file must be answered
without a 5xx, and if it is accepted, come to an end within five seconds; no process may die; memory
of API, worker and each decoder may grow by 300 MB at most. Bombs have to be refused within 100 ms.
The last line is JSON; the exit code is 1 if anything was not so.
"""

import argparse
import io
import json
import re
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
from PIL import Image

from deploy.local import LocalStack

_MOST_SECONDS = 5.0
_MOST_BOMB_SECONDS = 0.1
_MOST_MB = 300
_TERMINAL = {"succeeded", "failed", "canceled"}


def bombs() -> Iterator[tuple[str, bytes]]:
    """Small files that would cost much."""
    yield "png of 16000 x 16000", _png(16_000, 16_000, zlib.compress(bytes(16_000 * 16_001 * 3), 9))
    yield "png that declares a width of 60000", _png(60_000, 60_000, zlib.compress(b"\0" * 100))
    lying = _png(300, 300, b"")[:41]
    yield "57 bytes with a lying chunk", lying + struct.pack(">I", 0x7FFFFFFF) + b"IDAT" + bytes(8)
    yield "jpeg of 500 scans", _jpeg_of_scans(500)


def odd() -> Iterator[tuple[str, bytes]]:
    """Files that are two things at once, or half of one."""
    png, jpeg = _photo("PNG"), _photo("JPEG")
    yield "png with a page behind it", png + b"<script>alert(1)</script>"
    yield "jpeg with an archive behind it", jpeg + b"PK\3\4" + bytes(3000)
    yield "page that begins like a jpeg", b"\xff\xd8\xff<html><script>alert(1)</script>"
    # Sound pictures with a bomb beside the pixels: judged, if it costs nothing.
    yield "png with 900 MB of text, compressed", _png_with_text(9_000_000)
    yield "png with 1 GB of zeros behind its pixels", _png(400, 400, zlib.compress(bytes(2**30), 9))
    yield "png with 10 GB of zeros behind its pixels", _png(400, 400, _zeros(10 * 2**30))
    # The largest pictures that are let in, of each kind that takes memory of its own.
    yield "png of 45 megapixels", _png(6708, 6708, _zeros(6708 * (3 * 6708 + 1)))
    yield "png of 34 megapixels with alpha", _png(5809, 5809, _zeros(5809 * (4 * 5809 + 1)), kind=6)
    deep = _zeros(4743 * (6 * 4743 + 1))
    yield "png of 22 megapixels in 16 bits", _png(4743, 4743, deep, depth=16)
    yield "cmyk jpeg of 34 megapixels", _large_jpeg("CMYK", 5809)
    yield "jpeg of 45 megapixels, turned", _large_jpeg("RGB", 6708, orientation=6)
    yield "progressive jpeg of 45 megapixels", _large_jpeg("RGB", 6708, progressive=True)
    yield "jpeg with 9 MB of filling in its picture", jpeg[:-2] + b"\xff" * 9_000_000 + b"\xff\xd9"
    yield "nothing", b""
    yield "gif", b"GIF89a" + bytes(1000)
    yield "svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    for name, whole in (("png", png), ("jpeg", jpeg)):
        for length in range(0, len(whole), 1024):
            yield f"{name} cut at {length}", whole[:length]


def _photo(kind: str) -> bytes:
    rng = np.random.default_rng(3)
    coarse = np.kron(rng.integers(60, 200, (16, 16, 3)), np.ones((16, 16, 1)))
    file = io.BytesIO()
    noisy = np.clip(coarse + rng.normal(0, 6, coarse.shape), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(file, kind)
    return file.getvalue()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _large_jpeg(mode: str, side: int, *, orientation: int = 1, progressive: bool = False) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    picture = Image.effect_noise((side, side), 30).convert(mode)
    picture.save(file, "JPEG", quality=5, progressive=progressive, exif=exif)
    return file.getvalue()


def _png(width: int, height: int, data: bytes, *, depth: int = 8, kind: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", data)
        + _chunk(b"IEND", b"")
    )


def _zeros(count: int) -> bytes:
    """So many, deflated."""
    deflater = zlib.compressobj(9)
    megabyte = bytes(1 << 20)
    pieces = [deflater.compress(megabyte) for _ in range(count >> 20)]
    return b"".join([*pieces, deflater.compress(bytes(count % (1 << 20))), deflater.flush()])


def _png_with_text(length: int) -> bytes:
    png = _photo("PNG")
    text = _chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(length * 100), 9))
    return png[:33] + text + png[33:]


def _jpeg_of_scans(count: int) -> bytes:
    """A progressive picture whose last scan comes again and again."""
    file = io.BytesIO()
    Image.new("RGB", (2000, 2000), (120, 90, 60)).save(file, "JPEG", progressive=True)
    jpeg = file.getvalue()
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:-2] + jpeg[last:-2] * count + b"\xff\xd9"


class Campaign:
    def __init__(self, stack: LocalStack, http: httpx.Client) -> None:
        self.answers: Counter[str] = Counter()
        self.violations: list[str] = []
        self.slowest: tuple[float, str] = (0.0, "")
        self.slowest_bomb: tuple[float, str] = (0.0, "")
        self._stack = stack
        self._http = http

    def send(self, name: str, data: bytes, *, is_bomb: bool = False) -> None:
        started = time.perf_counter()
        answer = self._http.post("/v1/inspections", files={"file": ("photo", data)})
        said = answer.json()
        refused_after = time.perf_counter() - started
        outcome = str(answer.status_code)
        if answer.status_code == 202:
            while said["status"] not in _TERMINAL:
                if time.perf_counter() - started > 60:
                    self.violations.append(f"{name}: without an end after a minute")
                    break
                wait = {"wait": 10}
                said = self._http.get(f"/v1/inspections/{said['id']}", params=wait).json()
            outcome += f" {said['status']}"
            if said["error"]:
                outcome += f" {said['error']['code']}"
        else:
            outcome += f" {said['code']}"
        took = time.perf_counter() - started
        self.answers[outcome] += 1
        self.slowest = max(self.slowest, (took, name))
        if answer.status_code >= 500:
            self.violations.append(f"{name}: {answer.status_code} {answer.text}")
        if took > _MOST_SECONDS:
            self.violations.append(f"{name}: {took:.1f} s")
        if is_bomb:
            self.slowest_bomb = max(self.slowest_bomb, (refused_after, name))
            print(f"{name}, {len(data)} bytes: {outcome} after {refused_after * 1000:.0f} ms")
            if answer.status_code == 202 or refused_after > _MOST_BOMB_SECONDS:
                self.violations.append(f"{name}: {outcome} after {refused_after * 1000:.0f} ms")


def is_decoder(process: psutil.Process) -> bool:
    return "spawn_main" in " ".join(process.cmdline())


def peak_mb(process: psutil.Process) -> int:
    """Peak resident memory since `forget_peak`."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(peak[1]) * 1024 // 10**6 if peak else 0


def forget_peak(process: psutil.Process) -> None:
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stack = LocalStack(Path(folder), host="127.0.0.1", port=0, tell=lambda _: None)
        try:
            stack.start()
            headers = {"X-API-Key": stack.admin_key}
            with httpx.Client(base_url=stack.url, headers=headers, timeout=60) as http:
                campaign = Campaign(stack, http)
                grown = run(campaign, stack, arguments.folders)
        finally:
            stack.stop()
    for outcome, count in campaign.answers.most_common():
        print(f"{count:6} {outcome}")
    print(f"slowest: {campaign.slowest[0]:.2f} s, {campaign.slowest[1]}")
    print(f"slowest bomb: {campaign.slowest_bomb[0] * 1000:.0f} ms, {campaign.slowest_bomb[1]}")
    print(f"memory grew by at most, MB: {grown}")
    for violation in campaign.violations[:20]:
        print(f"VIOLATION: {violation}")
    print(
        json.dumps(
            {
                "campaign": "hostile",
                "files": campaign.answers.total(),
                "answers": dict(campaign.answers),
                "slowest_s": round(campaign.slowest[0], 2),
                "slowest_bomb_ms": round(campaign.slowest_bomb[0] * 1000),
                "grown_mb": grown,
                "violations": len(campaign.violations),
            }
        )
    )
    sys.exit(1 if campaign.violations else 0)


def run(campaign: Campaign, stack: LocalStack, folders: list[Path]) -> dict[str, int]:
    """Send everything; by how many MB each process has grown at its peak."""
    processes = {name: psutil.Process(stack.pid(name)) for name in ("api", "worker")}
    campaign.send("a good photo", _photo("PNG"))
    decoders = [
        child for child in processes["worker"].children(recursive=True) if is_decoder(child)
    ]
    processes |= {f"decoder {number}": one for number, one in enumerate(decoders, start=1)}
    before = {name: process.memory_info().rss // 10**6 for name, process in processes.items()}
    for process in processes.values():
        forget_peak(process)
    for name, data in bombs():
        campaign.send(name, data, is_bomb=True)
    for name, data in odd():
        campaign.send(name, data)
    for folder in folders:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            campaign.send(path.name, path.read_bytes())
    campaign.send("a good photo again", _photo("PNG"))
    for name, process in processes.items():
        if not process.is_running():
            campaign.violations.append(f"{name} died")
    grown = {name: peak_mb(process) - before[name] for name, process in processes.items()}
    for name, megabytes in grown.items():
        if megabytes > _MOST_MB:
            campaign.violations.append(f"{name} grew by {megabytes} MB")
    return grown


if __name__ == "__main__":
    main()
