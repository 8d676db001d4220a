"""One POST to a receiver that does as it pleases."""

import asyncio
import socket
import time
from datetime import timedelta

import pytest
import trustme

from shared import addresses
from shared.addresses import parse_networks
from worker.deliver import posting
from worker.deliver.posting import Poster

LOCAL = parse_networks("127.0.0.0/8, ::1/128")


def post(url, *, allowed=LOCAL, body=b"{}", times=1):
    async def run():
        poster = Poster(allowed)
        try:
            return [await poster.post(url, {"webhook-id": "msg_1"}, body) for _ in range(times)]
        finally:
            await poster.close()

    answers = asyncio.run(run())
    return answers[0] if times == 1 else answers


@pytest.fixture
def short(monkeypatch):
    """Nobody waits fifteen seconds for a test."""
    monkeypatch.setattr(posting, "TIMEOUT_SECONDS", 0.5)


def test_the_body_arrives_as_it_is_signed(receiver):
    at = receiver()

    answer = post(f"{at.url}/hook/a?line=2", body='{"lot":"ö"}'.encode())

    assert (answer.status_code, answer.error) == (200, None)
    (request,) = at.requests
    assert request.path == "/hook/a?line=2"
    assert request.body == '{"lot":"ö"}'.encode()
    assert request.headers["webhook-id"] == "msg_1"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["host"] == f"127.0.0.1:{at.port}"


def test_a_connection_is_used_again(receiver):
    at = receiver()
    post(at.url, times=5)

    assert (len(at.requests), at.connections) == (5, 1)


def test_the_start_of_the_reply_is_kept(receiver):
    at = receiver(receiver.reply(500, body=b"out of \0 order \xff" + b"x" * 5000))
    answer = post(at.url)

    assert answer.status_code == 500
    assert answer.reply.startswith("out of \ufffd order \ufffd")
    assert len(answer.reply) == 2048


def test_of_a_reply_of_ten_megabytes_little_is_read(receiver):
    sent = 0

    async def endless(request, writer):
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n")
        for _ in range(1000):
            writer.write(bytes(10_000))
            await writer.drain()
            sent += 10_000
        return "close"

    answer = post(receiver(endless).url)
    assert (answer.status_code, answer.error) == (200, None)
    # What fits into the buffers of both sockets.
    assert sent < 8_000_000


@pytest.mark.parametrize("slow", ["headers", "body", "nothing"])
def test_one_byte_at_a_time_is_cut_off(receiver, short, slow):
    async def drip(request, writer):
        if slow == "body":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while slow != "nothing":
            writer.write(b"HTTP/1.1 200 OK"[:1])
            await writer.drain()
            await asyncio.sleep(0.05)
        await asyncio.sleep(10)

    started = time.monotonic()
    answer = post(receiver(drip).url)

    assert answer.status_code is None
    assert "no complete answer" in answer.error or "Protocol" in answer.error
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_no_arrival_and_is_not_followed(receiver, status):
    elsewhere = receiver()
    at = receiver(receiver.reply(status, f"Location: {elsewhere.url}/latest/meta-data"))
    answer = post(at.url)

    assert (answer.status_code, "redirects" in answer.error) == (status, True)
    assert elsewhere.connections == 0


def test_a_closed_connection_is_an_error(receiver):
    async def close(request, writer):
        return "close"

    answer = post(receiver(close).url)
    assert answer.status_code is None
    assert answer.error


def test_where_nobody_listens_is_an_error(free_port):
    answer = post(f"http://127.0.0.1:{free_port}/")

    assert answer.status_code is None
    assert "ConnectError" in answer.error


def test_a_receiver_without_tls_is_an_error_over_https(receiver, short):
    answer = post(receiver().url.replace("http:", "https:"))

    assert answer.status_code is None
    assert answer.error


def test_a_certificate_of_a_trusted_authority_is_good(receiver, authority, present):
    at = receiver(tls=present(authority, "localhost"))
    answer = post(at.url)

    assert (answer.status_code, answer.error) == (200, None)
    assert at.requests[0].headers["host"] == f"localhost:{at.port}"


def test_a_certificate_of_nobody_that_we_know_is_refused(receiver, authority, present):
    at = receiver(tls=present(trustme.CA(), "localhost"))
    answer = post(at.url)

    assert answer.status_code is None
    assert "certificate verify failed: unable to get local issuer" in answer.error
    assert at.requests == []


def test_the_certificate_of_another_host_is_refused(receiver, authority, present):
    at = receiver(tls=present(authority, "mes.example"))
    answer = post(at.url)

    assert answer.status_code is None
    assert "Hostname mismatch, certificate is not valid for 'localhost'" in answer.error
    assert at.requests == []


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("120", 120), ("0", 0), ("soon", None), ("-5", None), ("9" * 30, 10**8)],
)
def test_retry_after_is_read(receiver, header, seconds):
    answer = post(receiver(receiver.reply(429, f"Retry-After: {header}")).url)

    assert answer.status_code == 429
    assert answer.retry_after == (None if seconds is None else timedelta(seconds=seconds))


def test_retry_after_may_be_a_date(receiver):
    header = "Retry-After: Wed, 21 Oct 2099 07:28:00 GMT"
    answer = post(receiver(receiver.reply(503, header)).url)

    assert answer.retry_after > timedelta(days=365)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1"),
        *("[::ffff:127.0.0.1]", "0.0.0.0", "[::]"),
    ],
)
def test_no_connection_is_made_to_a_refused_address(receiver, host):
    """Seen at the socket: the receiver listens there, and nobody comes."""
    at = receiver()
    answer = post(f"https://{host}:{at.port}/", allowed=())

    assert "DEFECTSCOPE_WEBHOOK_ALLOWED_CIDRS" in answer.error
    assert at.connections == 0


def test_a_name_that_leads_elsewhere_the_second_time_is_looked_up_once_a_connection(
    receiver, monkeypatch
):
    """DNS rebinding: public when it is asked, private when it is connected to."""
    at = receiver()
    said = iter([["93.184.216.34"], ["127.0.0.1"], ["127.0.0.1"]])
    connected = []

    class Inner:
        async def connect_tcp(self, host, port, timeout):
            connected.append(host)
            raise OSError("as far as it goes")

    monkeypatch.setattr(addresses, "look_up", lambda host, port: next(said))
    monkeypatch.setattr(posting.httpcore, "AnyIOBackend", Inner)
    first, second = post(f"https://rebinding.example:{at.port}/", allowed=(), times=2)

    assert connected == ["93.184.216.34"]
    assert "as far as it goes" in first.error
    assert "not public" in second.error
    assert at.connections == 0


def test_a_slow_name_server_is_waited_for_no_longer_than_the_rest(monkeypatch, short):
    def slow(host, port):
        time.sleep(1.5)
        return socket.getaddrinfo("127.0.0.1", port)

    monkeypatch.setattr(addresses, "look_up", slow)
    answer = post("https://slow.example/")

    assert "no complete answer" in answer.error
