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


PRIVATE = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255"),
    *("192.168.1.1", "192.0.2.1", "198.18.0.1", "198.51.100.7", "203.0.113.9", "240.0.0.1"),
    *("100.64.0.1", "100.127.255.254"),  # carrier-grade NAT
    *("169.254.1.1", "fe80::1", "fe80::1%lo"),  # link-local
    *("224.0.0.1", "255.255.255.255", "ff02::1"),
    *("::", "::1", "fc00::1", "fd12:3456::1", "fec0::1", "2001:db8::1", "100::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:0:0"),  # IPv4-mapped
    *("::127.0.0.1", "::10.0.0.1"),  # IPv4-compatible
    *("64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::1"),  # NAT64
    *("2002:7f00:1::", "2002:a00:1::1"),  # 6to4
    "2001:0:4136:e378:8000:63bf:f5ff:fffe",  # Teredo
]
METADATA = [
    *("169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200", "168.63.129.16"),
    *("169.254.0.23", "169.254.42.42", "fd00:42::42", "192.0.0.192", "fd00:ec2::254"),
    *("fd20:ce::254", "fe80::a9fe:a9fe"),
    *("::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::"),
]
WRITTEN = [
    # inet_aton takes these, and so does the resolver: decimal, octal, hexadecimal, short.
    *("2130706433", "017700000001", "0177.0.0.1", "0177.0.0.01", "0x7f000001", "0x7f.0.0.1"),
    *("127.1", "127.0.1", "0", "localhost", "localhost.", "[::1]", "[::ffff:7f00:1]", "[::]"),
]


@pytest.mark.parametrize("address", [*PRIVATE, *METADATA])
def test_no_connection_is_made_where_a_name_leads_to_a_refused_address(
    connected, monkeypatch, address
):
    """Seen at the socket, whatever module would make it."""
    # Beside a public one, too: one that is refused refuses the name.
    found = iter([[address], ["93.184.216.34", address]])
    monkeypatch.setattr(addresses, "look_up", lambda host, port: next(found))

    for answer in post("https://rebinding.example/", allowed=(), times=2):
        assert answer.error.startswith("rebinding.example ")
        assert answer.status_code is None
    assert connected == []


@pytest.mark.parametrize("address", METADATA)
def test_no_connection_is_made_to_metadata_whatever_is_allowed(connected, monkeypatch, address):
    monkeypatch.setattr(addresses, "look_up", lambda host, port: [address])
    answer = post("http://metadata.example/", allowed=parse_networks("0.0.0.0/0, ::/0"))

    assert "no setting allows it" in answer.error
    assert connected == []


@pytest.mark.parametrize("host", WRITTEN)
def test_no_connection_is_made_to_a_refused_address_however_it_is_written(
    receiver, connected, host
):
    at = receiver()
    answer = post(f"https://{host}:{at.port}/", allowed=())

    assert "DEFECTSCOPE_WEBHOOK_ALLOWED_CIDRS" in answer.error
    assert connected == []
    assert at.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "localhost", "[::ffff:127.0.0.1]"])
def test_the_same_is_connected_to_and_seen_once_it_is_allowed(receiver, connected, host):
    """Else the tests above would prove nothing."""
    at = receiver()
    networks = parse_networks("127.0.0.0/8, ::1/128, ::ffff:127.0.0.0/104")
    answer = post(f"http://{host}:{at.port}/", allowed=networks)

    assert answer.status_code == 200
    assert connected[-1][1] == at.port
    assert at.connections == 1


@pytest.mark.parametrize(
    "location", ["http://169.254.169.254/latest/meta-data/", "https://10.0.0.1/", "//127.0.0.1/"]
)
def test_a_redirect_leads_to_no_connection(receiver, connected, location):
    at = receiver(receiver.reply(302, f"Location: {location}"))
    answer = post(at.url)

    assert "redirects are not followed" in answer.error
    assert connected == [("127.0.0.1", at.port)]


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
