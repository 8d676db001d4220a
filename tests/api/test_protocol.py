"""Slow and hostile connections, against a real server on a socket."""

import asyncio
import json
import socket
import threading
import time
from contextlib import suppress

import pytest
import uvicorn

from api import protocol


async def echo(scope, receive, send):
    """Reads the body, takes its time if asked to, and says how much came."""
    if scope["type"] == "lifespan":
        return
    count, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        count += len(message.get("body", b""))
        more = message.get("more_body", False)
    if scope["path"] == "/slow":
        await asyncio.sleep(1.2)
    if scope["path"] == "/long":
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    if scope["path"] == "/large":
        start = {"type": "http.response.start", "status": 200, "headers": []}
        await send(start)
        for _ in range(200):
            await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
        return
    body = str(count).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def heard():
    """Paths of the requests that the app was told of."""
    return []


@pytest.fixture
def connect(monkeypatch, wait_until, heard):
    async def app(scope, receive, send):
        if scope["type"] == "http":
            heard.append(scope["path"])
        await echo(scope, receive, send)

    monkeypatch.setattr(protocol, "WINDOW_SECONDS", 0.5)
    monkeypatch.setattr(protocol, "LEAST_BYTES", 1000)
    config = uvicorn.Config(app, port=0, http=protocol.PacedProtocol, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, "the server")
    address = server.servers[0].sockets[0].getsockname()
    opened = []

    def connect():
        opened.append(socket.create_connection(address, timeout=10))
        return opened[-1]

    yield connect
    for one in opened:
        one.close()
    server.should_exit = True
    thread.join()


def answer(connection):
    """Status and body of what comes until the server closes, or of one answer with a length."""
    data = b""
    while piece := connection.recv(65536):
        data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        lengths = [x for x in head.lower().split(b"\r\n") if x.startswith(b"content-length: ")]
        if lengths and len(body) >= int(lengths[0].split()[1]):
            break
    return int(data.split()[1]), data.partition(b"\r\n\r\n")[2]


def drip(connection, pieces, pause):
    for piece in pieces:
        try:
            connection.sendall(piece)
        except OSError:
            return
        time.sleep(pause)


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b"POST / HT"],
        [HEAD, *[b"X-%d: y\r\n" % n for n in range(30)]],
        [HEAD + b"Content-Length: 5000\r\n\r\n", *[b"x"] * 30],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"1\r\nx\r\n"] * 30],
    ],
    ids=["nothing", "half a line", "endless headers", "dripping body", "dripping chunks"],
)
def test_who_keeps_us_waiting_is_told_and_cut_off(connect, pieces):
    connection = connect()
    started = time.monotonic()
    dripping = threading.Thread(target=drip, args=(connection, pieces, 0.1))
    dripping.start()
    status, body = answer(connection)
    assert time.monotonic() - started < 2
    assert (status, json.loads(body)["code"]) == (408, "too_slow")
    # By a reset, if what dripped meanwhile was never read.
    with suppress(ConnectionResetError):
        assert connection.recv(1) == b""
    dripping.join()


def test_a_body_that_comes_steadily_may_take_longer_than_a_window(connect):
    connection = connect()
    connection.sendall(HEAD + b"Content-Length: 6000\r\n\r\n")
    drip(connection, [b"x" * 500] * 12, 0.1)
    assert answer(connection) == (200, b"6000")


def test_a_request_that_has_come_may_take_as_long_as_it_likes_to_answer(connect):
    connection = connect()
    connection.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer(connection) == (200, b"0")


def test_a_kept_connection_serves_the_next_request(connect):
    connection = connect()
    for _ in range(3):
        connection.sendall(HEAD + b"Content-Length: 3\r\n\r\nabc")
        assert answer(connection) == (200, b"3")
        time.sleep(0.7)  # idle longer than a window, shorter than connections are kept


def test_the_second_request_of_a_connection_is_timed_as_the_first(connect):
    connection = connect()
    connection.sendall(HEAD + b"Content-Length: 3\r\n\r\nabc")
    assert answer(connection)[0] == 200
    connection.sendall(b"POST / HT")
    assert answer(connection)[0] == 408


def test_headers_without_end_are_refused(connect):
    connection = connect()
    drip(connection, [HEAD] + [b"X-%d: %s\r\n" % (n, b"y" * 1000) for n in range(100)], 0)
    status, body = answer(connection)
    assert (status, json.loads(body)["code"]) == (431, "headers_too_large")


def test_the_app_hears_of_a_request_when_a_good_piece_of_its_body_is_there(connect, heard):
    connection = connect()
    connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n\r\n" + b"x" * 10)
    time.sleep(0.2)
    assert heard == []

    connection.sendall(b"x" * 20000)
    time.sleep(0.2)
    assert heard == ["/"]
    connection.sendall(b"x" * 19990)
    assert answer(connection) == (200, b"40000")


def test_the_app_never_hears_of_a_request_that_dawdles(connect, heard):
    connection = connect()
    connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx")

    assert answer(connection)[0] == 408
    time.sleep(0.1)
    assert heard == []


def test_a_client_that_waits_to_be_asked_for_the_body_is_asked(connect):
    connection = connect()
    connection.sendall(
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    )
    assert connection.recv(1000).startswith(b"HTTP/1.1 100 Continue")

    connection.sendall(b"photo")
    assert answer(connection) == (200, b"5")


def test_a_request_behind_another_waits_for_its_own_body_only(connect):
    connection = connect()
    connection.sendall(
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\none"
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx"
    )

    assert answer(connection) == (200, b"3")


@pytest.mark.parametrize("body", [b"", b"x"])
def test_who_dawdles_behind_another_request_in_the_same_piece_is_cut_off(connect, body):
    connection = connect()
    connection.sendall(
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + body
    )

    assert answer(connection) == (200, b"0")
    connection.settimeout(5)
    rest = b""
    while piece := connection.recv(65536):
        rest += piece
    assert rest.startswith(b"HTTP/1.1 408 ")


def test_long_headers_are_refused_also_when_they_come_at_once(connect, heard):
    connection = connect()
    long = b"".join(b"X-%d: %s\r\n" % (number, b"y" * 1000) for number in range(80))
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n" + long + b"\r\n")

    status, body = answer(connection)
    assert (status, json.loads(body)["code"]) == (431, "headers_too_large")
    assert heard == []


def test_headers_without_end_are_refused_also_behind_a_request_that_is_being_answered(connect):
    """Nothing else bounds what is kept of them."""
    connection = connect()
    connection.sendall(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n")
    endless = b"".join(b"X-%d: %s\r\n" % (number, b"y" * 1000) for number in range(10_000))
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        connection.sendall(endless)


def read_all(connection, pause):
    count = 0
    with suppress(ConnectionResetError):
        while piece := connection.recv(1_000_000):
            count += len(piece)
            time.sleep(pause)
    return count


def test_who_does_not_read_the_answer_is_cut_off(connect, monkeypatch):
    monkeypatch.setattr(protocol, "UNREAD_SECONDS", 0.5)
    connection = connect()
    connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    time.sleep(2)
    # What the kernel had taken of it is all that comes.
    assert read_all(connection, 0) < 100 * 100_000


def test_who_reads_slowly_but_does_gets_it_all(connect, monkeypatch):
    monkeypatch.setattr(protocol, "UNREAD_SECONDS", 0.5)
    connection = connect()
    connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert read_all(connection, 0.01) > 200 * 100_000
