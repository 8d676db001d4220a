"""Decoding in a process that may die."""

import io
import os
import signal
import threading
import time

import numpy as np
import psutil
import pytest
from PIL import Image

from shared.errors import ImageOutOfBounds, NotAnImage, UnreadableImage
from worker import decoding
from worker.decoding import DecoderDied
from worker.inspect.preprocess import prepare


def png(side=200):
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def crash(data):
    if b"crash" in data:
        os.kill(os.getpid(), signal.SIGSEGV)
    return prepare(data)


def hang(data):
    if b"hang" in data:
        time.sleep(60)
    return prepare(data)


def swell(data):
    if b"swell" in data:
        return np.ones(decoding._MEMORY_BYTES, np.uint8)
    return prepare(data)


def test_a_photo_comes_out_as_it_does_in_this_process(decoder):
    here, there = prepare(png()), decoder.prepare(png())
    assert np.array_equal(here.pixels, there.pixels)
    assert here.quality == there.quality


def test_what_is_wrong_with_a_file_is_told_as_in_this_process(decoder):
    for data, kind in (
        (b"text", NotAnImage),
        (png()[:-30], UnreadableImage),
        (png(60), ImageOutOfBounds),
    ):
        with pytest.raises(kind) as there:
            decoder.prepare(data)
        with pytest.raises(kind) as here:
            prepare(data)
        assert (str(there.value), there.value.code) == (str(here.value), here.value.code)


@pytest.mark.parametrize(("what", "word"), [(crash, b"crash"), (hang, b"hang"), (swell, b"swell")])
def test_a_file_that_kills_the_decoder_harms_no_other(decoder, monkeypatch, what, word):
    monkeypatch.setattr(decoding, "prepare", what)
    monkeypatch.setattr(decoding, "_SECONDS", 2.0)
    with pytest.raises(DecoderDied) as died:
        decoder.prepare(word)
    assert died.value.code == "unreadable_image"
    assert np.array_equal(decoder.prepare(png()).pixels, prepare(png()).pixels)


def test_a_decoding_process_knows_no_torch_and_ends_with_the_worker(tmp_path):
    script = tmp_path / "worker_like.py"
    script.write_text(
        "import os, signal, sys, time\n"
        "from worker.decoding import Decoder\n"
        "def loaded():\n"
        "    return os.getpid(), 'torch' in sys.modules\n"
        "if __name__ == '__main__':\n"
        "    decoder = Decoder(1)\n"
        "    decoder.warm()\n"
        "    print(*decoder._pool.schedule(loaded).result(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    import subprocess
    import sys

    said = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False
    )
    pid, has_torch = said.stdout.split()
    assert has_torch == "False"
    until = time.monotonic() + 5
    while psutil.pid_exists(int(pid)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == "zombie"


def decoders():
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]


def slow(data):
    if b"slow" in data:
        time.sleep(3)
    return prepare(data.removeprefix(b"slow"))


def test_a_decoder_that_is_killed_while_it_waits_is_replaced(monkeypatch):
    """And what others decode at that moment comes to an end, in whatever way."""
    monkeypatch.setattr(decoding, "prepare", slow)
    decoder = decoding.Decoder(2)
    try:
        before = {child.pid for child in decoders()}
        decoder.warm()
        outcome = []

        def decode_slowly():
            try:
                outcome.append(decoder.prepare(b"slow" + png()))
            except DecoderDied as error:
                outcome.append(error)

        thread = threading.Thread(target=decode_slowly)
        thread.start()
        time.sleep(0.5)
        idle = min(
            (child for child in decoders() if child.pid not in before),
            key=lambda child: child.cpu_times().user,
        )
        idle.kill()
        time.sleep(0.5)

        assert np.array_equal(decoder.prepare(png()).pixels, prepare(png()).pixels)
        thread.join(20)
        assert len(outcome) == 1
    finally:
        decoder.stop()


def test_a_decoder_outlives_the_thread_that_began_it():
    decoder = decoding.Decoder(1)
    try:
        thread = threading.Thread(target=decoder.warm)
        thread.start()
        thread.join()
        time.sleep(0.2)

        assert np.array_equal(decoder.prepare(png()).pixels, prepare(png()).pixels)
    finally:
        decoder.stop()
